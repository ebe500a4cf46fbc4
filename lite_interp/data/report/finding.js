// Pages that look for latents: by words and meaning, and by what fires on a text.

const latentLink = (latent, text) => el("a", { href: `#latent-${latent}`, title: text }, String(latent));

// What is said while a question is answered goes into `box`; what comes back, or why nothing does, into it as well.
async function answered(box, waiting, work, show) {
  box.replaceChildren(el("p", { role: "status" }, waiting));
  box.setAttribute("aria-busy", "true");
  try {
    box.replaceChildren(...[await work()].flatMap((found) => [show(found)].flat(9)).filter(Boolean));
  } catch (error) {
    box.replaceChildren(failed(error));
  }
  box.removeAttribute("aria-busy");
}

const pieces = (texts) =>
  el(
    "bdi",
    null,
    texts.map(([text, found]) => (found ? el("mark", { class: "hit" }, text) : text)),
  );

function hit(found) {
  const where = found.window.length
    ? el(
        "p",
        { class: "small" },
        el("span", { class: "dim" }, `${found.on_words ? "fires on it " : ""}in ${plural(found.n_windows, "window")}: `),
        pieces(found.window),
      )
    : null;
  return el(
    "li",
    null,
    latentLink(found.latent),
    " ",
    found.explanation.length
      ? pieces(found.explanation)
      : el("em", { class: "dim" }, `(not explained; fires on: ${found.words})`),
    el(
      "small",
      null,
      found.score ? ` ${found.score[0]} ${two(found.score[1])}` : "",
      there(found.cosine) ? `, cosine ${two(found.cosine)}` : "",
    ),
    where,
  );
}

function searchPage(parameters) {
  const asked = new URLSearchParams(parameters || ""),
    text = asked.get("text") || "",
    box = el("div", { id: "hits" });
  const field = el("input", {
    type: "search",
    name: "text",
    "aria-label": "Words",
    placeholder: "words; year* stands for years, too",
  });
  const meaning = el("input", { type: "checkbox", name: "meaning" });
  field.value = text;
  meaning.checked = asked.get("meaning") === "1";
  const form = el(
    "form",
    { class: "controls", role: "search" },
    field,
    el("label", null, meaning, " by meaning, too"),
    el("button", null, "search"),
  );
  listen(form, "submit", (event) => {
    event.preventDefault();
    const wanted = new URLSearchParams({ text: field.value, ...(meaning.checked ? { meaning: "1" } : {}) });
    if (location.hash === `#search?${wanted}`) find();
    else location.hash = `search?${wanted}`;
  });
  const show = (hits) =>
    hits.length
      ? [
          el("p", { class: "small dim", role: "status" }, `${plural(hits.length, "latent")}, the best first`),
          el("ol", { class: "hits" }, hits.map(hit)),
        ]
      : el("p", { role: "status" }, "Nothing was found.");
  function find() {
    const waiting = meaning.checked ? "The embedder looks; the first time it is loaded, and reads all explanations." : "…";
    return answered(box, waiting, () => ask("search", { text, meaning: meaning.checked ? "1" : "0" }), show);
  }
  if (text) find();
  return el(
    "article",
    { id: "searched" },
    el("a", { href: "#latents" }, "all latents"),
    el("h1", { tabindex: "-1" }, "Search"),
    el("p", { class: "small" }, "In explanations, and in the windows that latents fire in."),
    form,
    box,
  );
}

// Tokens of a text that can be chosen, and the latents that fire on them; either shows the other.
function firedPart(found) {
  const tokens = found.tokens.map((token, place) => {
    const strongest = token.fires.length ? token.fires[0] : null;
    const told = token.fires.map(([latent, value]) => `${latent}: ${short(value)} ${found.told[latent] || ""}`).join("\n");
    return listen(
      el(
        "button",
        {
          type: "button",
          class: `token${token.special ? " dim" : ""}`,
          title: told || "nothing fires",
          "aria-label": token.token.trim() ? null : "space",
          "aria-pressed": "false",
          tabindex: "-1",
        },
        token.token,
      ),
      "click",
      () => strongest && chooseToken(place),
    );
  });
  const list = el("div", { id: "at", role: "status" });
  function shade(values, greatest) {
    tokens.forEach((node, place) => {
      node.className = `token${found.tokens[place].special ? " dim" : ""}${values.has(place) ? ` a${level(values.get(place), greatest)}` : ""}`;
      node.setAttribute("aria-pressed", "false");
    });
  }
  function chooseToken(place) {
    shade(new Map(), 1);
    tokens[place].setAttribute("aria-pressed", "true");
    list.replaceChildren(
      el("h2", null, "At ", isolated(found.tokens[place].token)),
      el(
        "ul",
        null,
        found.tokens[place].fires.map(([latent, value]) =>
          el("li", null, latentLink(latent), ` ${short(value)} `, isolated(found.told[latent] || "")),
        ),
      ),
    );
  }
  function chooseLatent(each) {
    shade(new Map(each.at), each.peak);
    list.replaceChildren(el("p", null, `Latent ${each.latent}: `, isolated(found.told[each.latent] || "not explained")));
    tokens[each.at[0][0]].scrollIntoView({ block: "nearest" });
  }
  const lines = found.latents.map((each) =>
    el(
      "tr",
      null,
      el("th", { scope: "row" }, latentLink(each.latent)),
      el("td", null, isolated(found.told[each.latent] || "")),
      numeric(short(each.peak)),
      numeric(there(each.share) ? `${Math.round(100 * each.share)} %` : "–"),
      cell(
        isolated(
          each.at
            .slice(0, 5)
            .map(([place]) => found.tokens[place].token.trim() || "␣")
            .join(" · "),
        ),
      ),
      cell(
        listen(el("button", { type: "button", "aria-label": `Show where latent ${each.latent} fires` }, "show"), "click", () =>
          chooseLatent(each),
        ),
      ),
    ),
  );
  return [
    walkable(el("p", { class: "fired", dir: "auto" }, tokens), ".token"),
    list,
    lines.length
      ? table(
          "Latents that fire, the strongest first; share of their greatest activation",
          ["latent", "explanation", "peak", "share", "on", ""],
          lines,
        )
      : el("p", null, "No latent fires."),
  ];
}

// Made once, so that whoever comes back from a latent finds the text again.
let fires = null;
const firesPage = () => (fires ??= newFiresPage());

function newFiresPage() {
  const box = el("div", { id: "fired" });
  const field = el("textarea", { rows: 5, "aria-label": "Text", placeholder: "A text that the subject reads" });
  const form = el("form", null, field, el("p", null, el("button", null, "which latents fire here")));
  listen(form, "submit", (event) => {
    event.preventDefault();
    answered(
      box,
      "The subject reads; the first time it is loaded, too.",
      () => ask("fires", null, { text: field.value }),
      firedPart,
    );
  });
  return el(
    "article",
    { id: "fires" },
    el("a", { href: "#latents" }, "all latents"),
    el("h1", { tabindex: "-1" }, "Which latents fire here"),
    form,
    box,
  );
}

routes.push([/^#search(?:\?(.*))?$/, searchPage], [/^#fires$/, firesPage]);
