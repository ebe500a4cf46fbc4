// Windows as text, and what was said of them.
const level = (value, greatest) => (greatest > 0 ? Math.min(10, Math.max(0, Math.ceil((10 * value) / greatest - 1e-9))) : 0);

// A window as a paragraph. Firing tokens are shaded; marks are those that a judge was shown.
function windowText(found, greatest, marks) {
  const values = new Map(found.fires),
    marked = new Set(marks || []),
    parts = [];
  let inside = false;
  found.tokens.forEach((token, place) => {
    if (marked.has(place) !== inside) {
      inside = !inside;
      parts.push(el("span", { class: "bracket" }, inside ? "<<" : ">>"));
    }
    const value = values.get(place),
      text = place ? token : token.trimStart() || token;
    if (value === undefined) return parts.push(text);
    const bare = text.trimStart() || text,
      told = `activation ${short(value)}`;
    return parts.push(
      text.slice(0, text.length - bare.length),
      el("mark", { class: `a${level(value, greatest)}`, tabindex: "-1", title: told, "aria-description": told }, bare),
    );
  });
  if (inside) parts.push(el("span", { class: "bracket" }, ">>"));
  return el("p", { class: "window", dir: "auto" }, parts);
}

function ratedText(found, expected) {
  return el(
    "p",
    { class: "window small", dir: "auto", "aria-label": "as it was simulated" },
    found.tokens.map((token, place) =>
      el(
        "span",
        { class: `rated r${level(expected[place] || 0, 10)}`, title: `expected rating ${short(expected[place])}` },
        token,
      ),
    ),
  );
}

function reachable(box, kind) {
  const first = box.querySelector(kind);
  if (first) first.tabIndex = 0;
}

// One stop for the tab key in all windows: arrow keys go from firing token to firing token.
function walkable(box, kind = "mark") {
  const all = () => [...box.querySelectorAll(kind)];
  reachable(box, kind);
  listen(box, "keydown", (event) => {
    if (!event.target.matches(kind)) return;
    const marks = all(),
      at = marks.indexOf(event.target),
      own = event.target.closest(".window");
    let to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: marks.length - 1 }[event.key];
    if (event.key === "ArrowDown") to = marks.findIndex((mark, place) => place > at && mark.closest(".window") !== own);
    if (event.key === "ArrowUp") {
      const before = marks
        .slice(0, at)
        .filter((mark) => mark.closest(".window") !== own)
        .pop();
      to = before ? marks.findIndex((mark) => mark.closest(".window") === before.closest(".window")) : -1;
    }
    if (to === undefined) return;
    event.preventDefault();
    if (marks[to]) {
      event.target.tabIndex = -1;
      marks[to].tabIndex = 0;
      marks[to].focus();
    }
  });
  return box;
}

const stratumName = (name) => (name === "decile_0" ? "decile 0, strongest" : words(name));

function itemsOf(set, judged) {
  const strata = new Map(set.scored.map(([window, stratum]) => [window, stratum]));
  const items = (judged ? judged.items : []).map(([window, active, value, none, more]) => ({
    window,
    active,
    value,
    none,
    more: more || {},
    stratum: strata.get(window),
    judged: true,
  }));
  const seen = new Set(items.map((item) => item.window));
  for (const [window, stratum] of set.scored) if (!seen.has(window)) items.push({ window, stratum, more: {} });
  const middle = median(items.filter((item) => there(item.value)).map((item) => item.value));
  for (const item of items)
    item.wrong = there(item.value) ? (item.active ? middle - item.value : item.value - middle) : -Infinity;
  const order = [...new Set(set.scored.map(([, stratum]) => stratum))].sort(
    (a, b) => b.startsWith("decile") - a.startsWith("decile") || (a < b ? -1 : a > b ? 1 : 0),
  );
  return items.sort((a, b) => order.indexOf(a.stratum) - order.indexOf(b.stratum));
}

function verdict(item) {
  if (!item.judged) return el("span", { class: "dim small" }, "not judged");
  if (item.more.failure) return el("span", { class: "bad small" }, `failed: ${item.more.failure}`);
  const miss = item.wrong > 0 ? el("strong", { class: "bad" }, item.active ? " missed" : " false alarm") : null;
  const marks = item.more.marks ? (item.active ? " right marks" : " wrong marks") : "";
  return el(
    "span",
    { class: "small" },
    signed(item.value),
    there(item.none) ? el("span", { class: "dim" }, ` null ${signed(item.none)}`) : null,
    marks,
    miss,
  );
}

function itemLine(record, item, withVerdict, label) {
  const found = record.windows[item.window],
    peak = Math.max(0, ...found.fires.map(([, value]) => value));
  const text = el(
    "div",
    null,
    label ? el("span", { class: "small dim" }, stratumName(item.stratum)) : null,
    windowText(found, record.max, item.more.marks),
    item.more.expected ? ratedText(found, item.more.expected) : null,
  );
  return el(
    "div",
    { class: withVerdict ? "item" : "item unjudged" },
    el("span", { class: "number small", title: "greatest activation" }, short(peak)),
    withVerdict ? verdict(item) : null,
    text,
  );
}

function grouped(record, items, withVerdict) {
  const groups = new Map();
  for (const item of items) groups.set(item.stratum, [...(groups.get(item.stratum) || []), item]);
  return [...groups].map(([stratum, some]) =>
    el(
      "div",
      { class: "stratum" },
      el("h4", null, stratumName(stratum)),
      el(
        "div",
        null,
        some.map((item) => itemLine(record, item, withVerdict)),
      ),
    ),
  );
}

// A latent that nobody explained has no stored windows; a source that has the firings draws some.
async function undrawn(record, box) {
  const none = "No windows are stored: this latent was not explained.";
  if (!data.source.windows) return box.replaceChildren(el("p", { class: "dim" }, none));
  box.replaceChildren(
    el("p", { role: "status" }, "Windows are drawn from the firings; the first time the tokenizer is loaded, too."),
  );
  try {
    const found = await data.source.windows(record.latent);
    const line = (window) => itemLine({ ...record, windows: [window] }, { window: 0, more: {} }, false);
    box.replaceChildren(
      el("p", { class: "small dim" }, "Drawn from the firings evenly over all strengths, strongest first; not stored."),
      el("div", null, found.map(line)),
    );
  } catch (error) {
    box.replaceChildren(el("p", { class: "dim" }, none), failed(error));
  }
  return reachable(box);
}

function windowsPart(record) {
  const told = record.explanations,
    box = el("div"),
    chosen = { explanation: 0, judge: "", order: "strata" };
  const judges = (explanation) => (explanation ? explanation.judged.filter((each) => each.scorer !== "intruder") : []);
  const controls = el("div", { class: "controls" });
  function draw() {
    const explanation = told[chosen.explanation],
      all = judges(explanation);
    const judged = all.find((each) => each.name === chosen.judge) || all[0];
    const set = record.sets[explanation ? explanation.set : 0];
    if (!set) return undrawn(record, box);
    const items = itemsOf(set, judged),
      plain = (some) => some.map(([window, stratum]) => ({ window, stratum, more: {} }));
    const mistakes = judged && chosen.order === "mistakes";
    const scored = mistakes
      ? items
          .filter((item) => item.judged)
          .sort((a, b) => b.wrong - a.wrong)
          .map((item) => itemLine(record, item, true, true))
      : grouped(record, items, Boolean(judged));
    controls.replaceChildren(
      ...[
        told.length > 1
          ? choice(
              "explanation",
              told.map((each, place) => [String(place), `${each.arm}: ${each.text || each.failure}`.slice(0, 80)]),
              String(chosen.explanation),
              (value) => {
                chosen.explanation = Number(value);
                draw();
              },
            )
          : null,
        all.length
          ? choice(
              "judged by",
              all.map((each) => [each.name, each.name]),
              judged.name,
              (value) => {
                chosen.judge = value;
                draw();
              },
            )
          : null,
        all.length
          ? choice(
              "order",
              [
                ["strata", "by stratum"],
                ["mistakes", "mistakes first"],
              ],
              chosen.order,
              (value) => {
                chosen.order = value;
                draw();
              },
            )
          : null,
      ].filter(Boolean),
    );
    const unit = judged && data.ways.find((way) => way.name === judged.name);
    box.replaceChildren(
      el("h3", null, "Scored"),
      judged
        ? el(
            "p",
            { class: "small dim" },
            `${unit && unit.unit ? `${unit.unit}; ` : ""}null: mean under explanations of other latents. Missed and false alarm: on the wrong side of the median.`,
          )
        : "",
      el("div", null, scored),
      el("h3", null, `Shown to the explainer (${set.sampler})`),
      el("div", null, grouped(record, plain(set.shown), false)),
      ...(set.held_out.length
        ? [el("h3", null, "Held out for the explainer"), el("div", null, grouped(record, plain(set.held_out), false))]
        : []),
    );
    reachable(box, "mark");
  }
  draw();
  return [controls, walkable(box)];
}

function questions(record) {
  const asked = record.alone
    .flatMap((each) => each.judged)
    .flatMap((judged) => judged.items.map((item) => [judged.name, item[2], item[4] || {}]));
  if (!asked.length) return null;
  return folded(
    `${plural(asked.length, "question")} about intruders`,
    walkable(
      el(
        "div",
        null,
        asked.map(([name, value, more], place) =>
          el(
            "div",
            { class: "questions" },
            el(
              "h3",
              null,
              `${name} ${place + 1}: `,
              value === 1
                ? el("span", { class: "good" }, "found")
                : el("span", { class: "bad" }, more.failure || `missed: it was ${more.place}, chosen was ${more.chosen}`),
            ),
            el(
              "ol",
              null,
              (more.choices || []).map(([window, marks], number) =>
                el(
                  "li",
                  { class: number + 1 === more.place ? "odd" : null },
                  record.windows[window] ? windowText(record.windows[window], record.max, marks) : "–",
                ),
              ),
            ),
          ),
        ),
      ),
    ),
  );
}
