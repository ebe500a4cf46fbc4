"""The records of `report`, live on this machine: for files of any size, and for rating.

    browser ─▶ guard ─▶ app ─▶ Live: study, table, search, models ─▶ results file

`guard` lets nobody in but who knows the token, `app` turns questions into JSON, `table` finds rows
among many, `live` holds what is open, `running` starts and stops. All of it happens in one thread,
question after question: one person looks.
"""
