"""What people say of explanations and windows."""

RATINGS = """
create table ratings (
    id text primary key,                -- rater and question
    rater text not null,
    task text not null check (task in ('explanation', 'detection', 'fuzzing', 'intruder')),
    explanation_id text references explanations(id),    -- null: judged without one
    example_set_id text not null references example_sets(id),
    settings text not null,             -- JSON: of the scorer whose item was asked about
    window_id text references windows(id),              -- null: all windows together
    item text not null,                 -- tells items of one window apart
    right_answer integer,               -- as `answer`; null: an opinion has none
    answer integer not null,            -- 1 to 4; 1 yes, 0 no; place of the intruder, from 1
    seconds real not null,
    answered_utc text not null
) strict;
create index ratings_rater on ratings(rater, task);
"""
