// The page of one latent.
const tokenList = (items, text) =>
  items && items.length
    ? el(
        "ul",
        { class: "tokens" },
        items.map(([token, value]) => el("li", null, el("b", null, isolated(token)), " ", el("small", null, text(value)))),
      )
    : el("p", { class: "dim" }, "none known");

function neighbours(items) {
  if (!items || !items.length) return el("p", { class: "dim" }, "none known");
  return el(
    "ul",
    { class: "tokens" },
    items.map(([latent, near]) =>
      el(
        "li",
        null,
        data.has(latent) ? el("a", { href: `#latent-${latent}`, title: data.told(latent) }, String(latent)) : String(latent),
        " ",
        el("small", null, two(near)),
      ),
    ),
  );
}

function scoreLine(score) {
  const way = data.ways[score.way],
    [active, silent, failed, controls] = score.n;
  const counted = `${active} + ${silent} items, ${failed} failed, ${plural(controls, "control")}`;
  const more = Object.entries(score.more);
  if (!there(score.value))
    return row(
      isolated(titled(way)),
      el("td", { colspan: 5 }, `no ${statistic(way)}: ${score.reason || "not defined"}`),
      cell(el("small", null, counted)),
    );
  return row(
    isolated(titled(way)),
    numeric(el("strong", null, two(score.value)), el("small", null, span(score.low, score.high, two))),
    cell(
      interval(
        way,
        score,
        way.statistic === "pearson" ? [-1, 1] : range(way, [score.value, score.low, score.high, score.null].filter(there)),
      ),
    ),
    numeric(two(score.null)),
    numeric(signed(score.difference), el("small", null, span(score.difference_low, score.difference_high, signed))),
    numeric(chance(score.q)),
    cell(
      el("small", null, counted),
      more.length
        ? folded(
            "more",
            listing(
              more.map(([name, value]) => [
                words(name),
                Array.isArray(value) ? short(value[0]) + span(value[1], value[2], short) : short(value),
              ]),
            ),
          )
        : null,
    ),
  );
}

const scoreTable = (scores) =>
  scores.length
    ? table("Scores with 95 % intervals", ["score", "value", "and null", "null", "difference", "q", ""], scores.map(scoreLine))
    : null;

// Where the explanation stops working: one row a score, one column a stratum.
function strataTable(scores) {
  const rows = scores
    .filter((score) => score.strata.length && data.ways[score.way].variant === "raw")
    .flatMap((score) => {
      const wrong = score.strata
        .filter(([name]) => name.endsWith("_wrong"))
        .map(([name, ...rest]) => [name.slice(0, -6), ...rest]);
      const right = score.strata.filter(([name]) => !name.endsWith("_wrong"));
      return [[data.ways[score.way], "", right], ...(wrong.length ? [[data.ways[score.way], ", wrong marks", wrong]] : [])];
    });
  const names = [...new Set(rows.flatMap(([, , strata]) => strata.map(([name]) => name)))].sort(
    (a, b) => b.startsWith("decile") - a.startsWith("decile") || (a < b ? -1 : 1),
  );
  if (!names.length) return null;
  return table(
    "Accuracy by stratum: decile 0 is the strongest",
    ["", ...names.map((name) => name.replace(/^decile_/, ""))],
    rows.map(([way, more, strata]) => {
      const known = new Map(strata.map(([name, value, n]) => [name, [value, n]]));
      return row(
        [isolated(way.name), more, el("small", null, ` ${statistic(way)}`)],
        names.map((name) => {
          const [value, n] = known.get(name) || [];
          return el(
            "td",
            { class: there(value) && value > 0 ? `r${level(value, 1)}` : "", title: there(n) ? plural(n, "item") : null },
            there(value) ? value.toFixed(1).replace("-", "−") : "",
          );
        }),
      );
    }),
    "heat",
  );
}

function explanationPart(each) {
  const shown =
    each.text === null
      ? el("p", { class: "text bad" }, `no explanation: ${each.failure}`)
      : el("p", { class: "text" }, isolated(each.text));
  return el(
    "section",
    { class: "explanation", "aria-label": `explanation by ${each.arm}` },
    el("p", { class: "dim" }, isolated(each.arm)),
    shown,
    each.raw ? folded("what the engine wrote", el("pre", null, each.raw)) : null,
    each.drafts.length
      ? el(
          "ul",
          { class: "small" },
          each.drafts.map((draft, place) =>
            el(
              "li",
              null,
              place === each.kept ? el("strong", null, "kept ") : "draft ",
              `AUROC ${two(draft.auroc)} on held-out windows: `,
              isolated(draft.text),
            ),
          ),
        )
      : null,
    scoreTable(each.scores),
    strataTable(each.scores),
  );
}

function steeringPart(record, steering) {
  const settings = new Map(steering.settings),
    judged = record.explanations
      .flatMap((each) => each.judged.filter((found) => found.scorer === "intervention").slice(0, 1))
      .slice(0, 1);
  const gains = new Map(judged.flatMap((found) => found.items.map(([window, , value]) => [window, value])));
  const how = steering.ablated ? "ablated" : `added along the ${settings.get("direction") || "decoder"} direction`;
  const lines = (texts) => texts.map((text) => el("p", { class: "passage", dir: "auto" }, text));
  return [
    el(
      "p",
      null,
      steering.failure
        ? `Nothing was written: ${steering.failure}.`
        : `The latent was ${how}${there(steering.strength) ? `, strength ${short(steering.strength)}` : ""}; KL ${two(steering.kl)} nats reached.`,
    ),
    steering.likelier.length ? [el("h3", null, "Makes likelier"), tokenList(steering.likelier, signed)] : null,
    there(steering.lens[1])
      ? el(
          "p",
          null,
          `Tokens that the latent promotes: ${percent(steering.lens[1])} of what it writes, ${percent(steering.lens[0])} without steering.`,
        )
      : null,
    steering.passages.length
      ? table(
          gains.size
            ? "What the subject wrote; gain: what steering adds to the log-probability of the first explanation"
            : "What the subject wrote",
          ["prompt", "clean", "steered"],
          steering.passages.map((passage) =>
            el(
              "tr",
              null,
              el(
                "td",
                null,
                el(
                  "p",
                  { class: "passage", dir: "auto" },
                  passage.prompt.length > 160 ? `…${passage.prompt.slice(-160)}` : passage.prompt,
                ),
                there(gains.get(passage.window)) ? el("small", null, `gain ${signed(gains.get(passage.window))} nats`) : null,
              ),
              cell(lines(passage.clean)),
              cell(lines(passage.steered)),
            ),
          ),
          "steered",
        )
      : null,
  ];
}

function latentPart(record) {
  const quantiles = record.quantiles || [],
    told = record.explanations.length;
  const facts = [
    ["fires", `${many(record.n_firings)} times in ${plural(record.n_contexts, "context")}, density ${percent(record.density)}`],
    [
      "activation",
      `mean ${short(record.mean)}, greatest ${short(record.max)}${quantiles.length === 11 ? `; median ${short(quantiles[5])}, 90 % below ${short(quantiles[9])}` : ""}`,
    ],
  ];
  if (there(record.position_dependence)) facts.push(["position", `tells ${percent(record.position_dependence)} of firing`]);
  if (record.flags && record.flags.length) facts.push(["flags", record.flags.map(words).join(", ")]);
  const section = (title, ...children) => el("section", { "aria-label": title }, el("h2", null, title), children);
  return [
    listing(facts),
    told ? record.explanations.map(explanationPart) : el("p", { class: "dim" }, "Not explained yet."),
    record.alone.some((each) => each.scores.length)
      ? section(
          "Judged without an explanation",
          record.alone.map((each) => [scoreTable(each.scores), strataTable(each.scores)]),
          questions(record),
        )
      : null,
    section("Windows", windowsPart(record)),
    section(
      "Activations and tokens",
      el(
        "div",
        { class: "pair" },
        el(
          "div",
          null,
          el("h3", null, "Histogram"),
          activations(record),
          el("h3", null, "Fires on"),
          tokenList(record.top_tokens, percent),
        ),
        el(
          "div",
          null,
          el("h3", null, "Promotes"),
          tokenList(record.promoted, signed),
          el("h3", null, "Suppresses"),
          tokenList(record.suppressed, signed),
          el("h3", null, "Neighbours by direction"),
          neighbours(record.decoder_neighbours),
          el("h3", null, "Neighbours by firing"),
          neighbours(record.cofiring_neighbours),
        ),
      ),
    ),
    record.steerings.length
      ? section(
          "Steered",
          record.steerings.map((each) => steeringPart(record, each)),
        )
      : null,
  ];
}

async function moves(latent) {
  const { before, after } = await data.table.place(latent);
  const link = (to, text) => (!there(to) ? null : el("a", { href: `#latent-${to}` }, `${text} ${to}`));
  return el(
    "nav",
    { class: "move", "aria-label": "Other latents" },
    el("a", { href: "#latents" }, "all latents"),
    link(before, "← latent"),
    link(after, "latent →"),
  );
}

async function latentPage(latent) {
  const heading = el(
    "h1",
    { tabindex: "-1" },
    `Latent ${latent} `,
    el("small", null, isolated(`${data.study.coder} at ${data.study.hookpoint}`)),
  );
  const record = await data.source.latent(latent);
  return el(
    "article",
    { id: "latent", "data-latent": latent },
    await moves(latent),
    heading,
    record ? latentPart(record) : el("p", null, "This latent is not in the page."),
  );
}
