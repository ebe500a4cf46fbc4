// People rate explanations, or judge as a scorer does. Whose work they look at is not in the page.

const TASKS = {
  explanation: ["Rate explanations", "How well does the explanation say what the texts have in common? One to four."],
  detection: ["Detection", "Does the explanation fit this text? Yes or no."],
  fuzzing: ["Fuzzing", "Does the explanation fit the marked words? Yes or no."],
  intruder: ["Intruder", "Which of the marked texts does not belong?"],
};

function remembered(key, value) {
  try {
    if (value !== undefined) localStorage.setItem(key, value);
    return localStorage.getItem(key) || "";
  } catch {
    return ""; // storage may be forbidden
  }
}

async function ratePage() {
  const box = el("div");
  const rated = await ask("rated");
  const name = el("input", { name: "rater", maxlength: 40, required: true, autocomplete: "off" });
  name.value = remembered("lite-interp-rater");
  const form = el(
    "form",
    { class: "rate-start" },
    el("label", null, "Your name ", name),
    el(
      "fieldset",
      null,
      el("legend", null, "What to do"),
      rated.tasks.map((task, place) =>
        el(
          "p",
          null,
          el(
            "label",
            null,
            el("input", { type: "radio", name: "task", value: task, checked: place === 0 }),
            ` ${TASKS[task][0]}: `,
            el("span", { class: "dim" }, TASKS[task][1]),
          ),
        ),
      ),
    ),
    el("button", null, "begin"),
  );
  listen(form, "submit", (event) => {
    event.preventDefault();
    const task = new FormData(form).get("task");
    remembered("lite-interp-rater", name.value);
    location.hash = `rate/${task}/${encodeURIComponent(name.value)}`;
  });
  box.append(
    el(
      "p",
      null,
      "Who explained, which latent it is and what scorers say is hidden. Looking at latents between two answers would make the hiding useless.",
    ),
    form,
    rated.counts.length
      ? table(
          "Answers so far",
          ["who", "task", "answers"],
          rated.counts.map(([who, task, n]) => row(isolated(who), cell(TASKS[task] ? TASKS[task][0] : task), numeric(many(n)))),
        )
      : null,
  );
  return el("article", { id: "rate" }, el("a", { href: "#latents" }, "all latents"), el("h1", { tabindex: "-1" }, "Rate"), box);
}

function shownWindows(record) {
  const items = record.windows.map((found) =>
    el(
      "li",
      null,
      found.fires && !found.fires.length ? el("span", { class: "small dim" }, "silent: ") : null,
      windowText({ tokens: found.tokens, fires: found.fires || [] }, record.max || 1, found.marks),
    ),
  );
  return el(record.task === "intruder" ? "ol" : "ul", { class: "rated-windows" }, items);
}

// One question after the other. Keys: the number of an answer, y and n, s to skip, u to take back.
async function sittingPage(task, encoded) {
  const rater = decodeURIComponent(encoded),
    progress = el("progress", { max: 1, value: 0, "aria-label": "answered" }),
    count = el("span", { role: "status" }, "questions are drawn"),
    trouble = el("div"),
    box = el("section", { "aria-label": "question" });
  let name = null,
    since = 0,
    busy = false,
    keys = new Map(),
    later = [],
    done = [0, 0];

  function show(found) {
    if (found.n_questions !== undefined) done = [found.n_answered, found.n_questions];
    progress.max = done[1] || 1;
    progress.value = done[0];
    count.textContent = `${many(done[0])} of ${many(done[1])}`;
    name = found.name;
    keys = new Map();
    since = performance.now();
    if (!found.question)
      return box.replaceChildren(el("p", { class: "ask", tabindex: "-1" }, "Everything is answered. Thank you."));
    const record = found.question;
    const answers = record.answers.map(([value, label], place) => {
      const key = record.answers.length === 2 ? label[0].toLowerCase() : String(place + 1);
      keys.set(key, value);
      keys.set(String(value), value);
      return listen(el("button", { type: "button" }, el("kbd", null, key), ` ${label}`), "click", () => answer(value));
    });
    return box.replaceChildren(
      el("p", { class: "ask", tabindex: "-1" }, record.ask),
      record.explanation === null ? "" : el("blockquote", null, isolated(record.explanation)),
      shownWindows(record),
      el("div", { class: "controls answers", role: "group", "aria-label": "answers" }, answers),
    );
  }

  async function work(act) {
    if (busy) return;
    busy = true;
    box.setAttribute("aria-busy", "true");
    try {
      const found = await act();
      trouble.replaceChildren(found.told ? el("p", { role: "status" }, found.told) : "");
      show(found);
      box.querySelector(".ask").focus({ preventScroll: true });
    } catch (error) {
      if (!done[1]) count.textContent = "";
      trouble.replaceChildren(failed(error));
    }
    box.removeAttribute("aria-busy");
    busy = false;
  }
  const next = () => ask("asked", null, { rater, task, later });
  const answer = (value) =>
    work(async () => {
      const seconds = (performance.now() - since) / 1000;
      const { kept } = await ask("answered", null, { rater, task, name, answer: value, seconds });
      return { ...(await next()), told: kept ? "" : "That was answered before: the first answer stays." };
    });
  const skip = () =>
    work(() => {
      later = [...later.filter((each) => each !== name), name].filter(Boolean);
      return next();
    });
  const undo = () =>
    work(async () => {
      const found = await ask("taken-back", null, { rater, task });
      done[0] -= 1;
      return found;
    });

  const page = el(
    "article",
    { id: "sitting" },
    el("a", { href: "#rate" }, "end"),
    el("h1", { tabindex: "-1" }, TASKS[task] ? TASKS[task][0] : task, el("small", null, " ", isolated(rater))),
    el(
      "div",
      { class: "controls" },
      progress,
      count,
      listen(el("button", { type: "button" }, el("kbd", null, "s"), " skip"), "click", skip),
      listen(el("button", { type: "button" }, el("kbd", null, "u"), " undo"), "click", undo),
    ),
    trouble,
    box,
  );
  function pressed(event) {
    if (!page.isConnected) return document.removeEventListener("keydown", pressed);
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.matches("input, textarea, select"))
      return undefined;
    const key = event.key.toLowerCase();
    if (keys.has(key)) return answer(keys.get(key));
    return key === "s" ? skip() : key === "u" ? undo() : undefined;
  }
  // Behind this function, since a page that is not shown yet has no focus, and is not to be taken for one that is gone.
  setTimeout(() => {
    if (!page.isConnected) return;
    listen(document, "keydown", pressed);
    work(next);
  });
  return page;
}

routes.push([/^#rate$/, ratePage], [/^#rate\/(\w+)\/(.+)$/, sittingPage]);
