// The first page: scores, the table, agreement, costs, where it came from.
const ofArm = (rows) => rows.filter((row) => !state.arm || row.arm === state.arm);

function scoreCards(plotted) {
  const rows = ofArm(plotted);
  return data.ways.map((way, place) => {
    if (way.variant !== state.variant) return null;
    const known = rows.map((row) => row.scores[place]).filter(Boolean);
    const values = known.map((score) => score[0]),
      nulls = known.map((score) => score[3]).filter(there);
    const said = (line) => el("p", null, meanText(way, line));
    const lines = data.summary.filter((line) => line.way === place && (!state.arm || !line.arm || line.arm === state.arm));
    return el(
      "figure",
      { class: "card" },
      el("h3", null, isolated(way.name), el("small", null, ` ${statistic(way)}`)),
      distribution(way, values, nulls),
      el(
        "figcaption",
        { class: "small" },
        lines.length > 3 ? folded(`means of ${lines.length} ways to explain`, lines.map(said)) : lines.map(said),
      ),
    );
  });
}

function meanText(way, line) {
  const [value, low, high] = line.value,
    whose = line.arm && !state.arm && data.arms.length > 1 ? `${line.arm}: ` : "";
  const none = there(line.null[0]) ? `, ${way.statistic === "accuracy" ? "chance" : "null"} ${two(line.null[0])}` : "";
  const [difference, from, to] = line.difference;
  const told = there(difference) ? `, difference ${signed(difference)}${span(from, to, signed)}` : "";
  const doubt = there(from) && from <= 0 ? " (not told apart from its null)" : "";
  return [
    isolated(whose),
    `mean ${two(value)}${span(low, high, two)} over ${plural(line.n_latents, "latent")}${none}${told}${doubt}${none ? `; ${many(line.n_certain)} certain (q < .05)` : ""}`,
  ];
}

function densityCards(plotted) {
  const rows = ofArm(plotted);
  return data.ways.map((way, place) => {
    const points = rows.filter((row) => row.density > 0 && row.scores[place]).map((row) => [row, row.scores[place][0]]);
    if (way.variant !== state.variant || !points.length) return null;
    return el(
      "figure",
      { class: "card" },
      el("h3", null, isolated(way.name), el("small", null, ` ${statistic(way)}`)),
      scatter(way, points),
    );
  });
}

function agreement() {
  const found = data.agreement.find((each) => each.variant === state.variant);
  if (!found) return el("p", { class: "dim" }, "No two scorers have enough scores of this kind.");
  const names = [...new Set(found.pairs.flatMap((pair) => [pair.first, pair.second]))];
  const at = (a, b) =>
    found.pairs.find((pair) => (pair.first === a && pair.second === b) || (pair.first === b && pair.second === a));
  return [
    el("p", null, `${found.head}. Above the diagonal Spearman's correlation, below it Pearson's, with 95 % intervals.`),
    table(
      "Agreement of scorers",
      ["", ...names.map(isolated)],
      names.map((first, i) =>
        row(
          isolated(first),
          names.map((second, j) => {
            const pair = at(first, second);
            if (i === j || !pair) return cell("");
            const [value, low, high] = i < j ? pair.spearman : pair.pearson,
              paper = i < j ? pair.spearman_paper : pair.pearson_paper;
            const strength = there(value) ? Math.min(10, Math.ceil(10 * Math.abs(value))) : 0;
            return el(
              "td",
              { class: value < 0 ? "" : `r${strength}` },
              two(value),
              el("br"),
              el("small", null, span(low, high, two)),
              there(paper) ? [el("br"), el("small", null, `paper ${two(paper)}`)] : null,
            );
          }),
        ),
      ),
      "heat",
    ),
    found.pairs.some((pair) => there(pair.spearman_paper)) ? el("p", { class: "small dim" }, found.source) : null,
  ];
}

function costs() {
  const stage = { explain: "explaining", steer: "steering", score: "scoring" };
  return table(
    "What it took, in all and a latent; scoring with its controls",
    ["", "", "latents", "tokens", "seconds", "tokens each", "seconds each"],
    data.costs.map((line) =>
      row(
        stage[line.stage],
        cell(isolated([line.name, line.arm].filter(Boolean).join(", "))),
        numeric(many(line.n)),
        numeric(many(line.tokens)),
        numeric(many(line.seconds)),
        numeric(short(Math.round(line.tokens / line.n))),
        numeric(short(line.seconds / line.n)),
      ),
    ),
  );
}

const listing = (lines) =>
  el(
    "dl",
    null,
    lines.map(([name, text]) => [el("dt", null, name), el("dd", null, isolated(text))]),
  );
const folded = (title, ...children) => el("details", null, el("summary", null, title), children);

function provenance() {
  const { models, details, prompts, runs } = data.study;
  return [
    details.map(([name, lines]) => folded(name, listing(lines))),
    models.map((model) => folded([`${model.role}: `, isolated(model.name)], listing(model.facts))),
    prompts.map((prompt) => folded(["prompt: ", isolated(prompt.name)], el("pre", null, prompt.lines.join("\n")))),
    runs.length
      ? folded(
          plural(runs.length, "command"),
          runs.map((run) => [
            el("h3", null, isolated(`${run.command}: ${run.outcome}`)),
            el("p", null, el("code", null, isolated(run.argv))),
            el(
              "p",
              { class: "small dim" },
              `${run.started} to ${run.ended || "?"}; `,
              isolated([...run.machine, ...run.versions].map((pair) => pair.join(" ")).join(", ")),
            ),
          ]),
        )
      : null,
  ];
}

function overview() {
  const latents = latentTable(),
    told = el("p", { role: "status", class: "small" });
  let asked = 0;
  const dynamic = { scores: el("div", { class: "cards" }), density: el("div", { class: "cards" }), agreement: el("div") };
  async function refreshRows() {
    const mine = (asked += 1),
      known = columns();
    const rows = await data.source.rows(query());
    if (mine !== asked) return;
    latents.titles(known, sortBy);
    latents.update(rows, known);
    told.textContent = `${many(rows.n)} of ${plural(data.n_rows, "row")}${rows.n > rows.n_printed ? `; the first ${many(rows.n_printed)} are printed` : ""}`;
  }
  async function sortBy(column) {
    state.sort = {
      key: column.key,
      down: state.sort.key === column.key ? !state.sort.down : !column.words && column.key !== "latent",
    };
    await refreshRows();
    latents.box.querySelector("th[aria-sort] button").focus();
  }
  async function refreshPlots() {
    const plotted = await data.source.plotted(state.arm);
    dynamic.scores.replaceChildren(...scoreCards(plotted).filter(Boolean));
    dynamic.density.replaceChildren(...densityCards(plotted).filter(Boolean));
  }
  async function refresh() {
    dynamic.agreement.replaceChildren(...[agreement()].flat().filter(Boolean));
    await Promise.all([refreshRows(), refreshPlots()]);
  }
  const set = (name) => (value) => {
    state[name] = value;
    refresh();
  };
  const variants = [...new Set(data.ways.map((way) => way.variant))];
  const chosen = el(
    "div",
    { class: "controls" },
    data.arms.length > 1
      ? choice("explanations by", [["", "all"], ...data.arms.map((arm) => [arm, arm])], state.arm, set("arm"))
      : null,
    variants.length > 1
      ? choice(
          "scores",
          variants.map((name) => [name, words(name)]),
          state.variant,
          set("variant"),
        )
      : null,
  );
  const parts = ["scores", "latents", "density", "agreement", "costs", "provenance"];
  const section = (id, title, ...children) => el("section", { id, "aria-label": title }, el("h2", null, title), children);
  const page = el(
    "div",
    { id: "overview" },
    el("h1", { tabindex: "-1" }, isolated(data.study.coder)),
    listing(data.study.facts),
    el(
      "nav",
      { class: "parts", "aria-label": "Parts of this page" },
      parts.map((id) => el("a", { href: `#${id}` }, id)),
    ),
    chosen,
    section(
      "scores",
      "Scores",
      el(
        "p",
        { class: "small" },
        el("span", { class: "key" }),
        "explanations, ",
        el("span", { class: "key null" }),
        "their null: explanations of other latents on the same windows. Lines are means.",
      ),
      dynamic.scores,
    ),
    section(
      "latents",
      "Latents",
      el(
        "div",
        { class: "controls" },
        filters(refreshRows),
        choice(
          "show",
          Object.entries(SHOWN).map(([key, [, text]]) => [key, text]),
          state.show,
          (value) => {
            state.show = value;
            refreshRows();
          },
        ),
      ),
      told,
      latents.box,
      el(
        "p",
        { class: "small dim" },
        "A click on a head sorts; arrow keys go from row to row. Bold: certainly above its null (q < .05).",
      ),
    ),
    section("density", "Density against score", dynamic.density),
    section("agreement", "Agreement", dynamic.agreement),
    section("costs", "Costs", costs()),
    section("provenance", "Where it came from", provenance()),
  );
  return { page, refresh, latents };
}
