// What pages are built of. Every text reaches a page as a text node or an attribute, never as
// markup.
const SVG = "http://www.w3.org/2000/svg";

// What a source gave about all latents, and what a person chose.
const data = {};
const state = { arm: "", variant: "raw", show: "value", text: "", diagnosis: "", ranges: [] };
state.sort = { key: "latent", down: false };

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
const el = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

function listen(node, kind, act) {
  node.addEventListener(kind, act);
  return node;
}

function choice(label, options, value, act) {
  const select = el(
    "select",
    { "aria-label": label },
    options.map(([key, text]) => el("option", { value: key }, text)),
  );
  select.value = value;
  listen(select, "change", () => act(select.value));
  return el("label", null, label, " ", select);
}

function table(caption, heads, rows, kind) {
  return el(
    "div",
    { class: "wide", role: "region", tabindex: "0", "aria-label": caption },
    el(
      "table",
      { class: kind },
      el("caption", null, caption),
      el(
        "thead",
        null,
        el(
          "tr",
          null,
          heads.map((head) => el("th", { scope: "col" }, head)),
        ),
      ),
      el("tbody", null, rows),
    ),
  );
}
const row = (head, ...cells) => el("tr", null, el("th", { scope: "row" }, head), cells);
const cell = (...children) => el("td", null, children);
const numeric = (...children) => el("td", { class: "number" }, children);
const isolated = (text) => el("bdi", null, text);

// Numbers as people read them.

const there = (value) => typeof value === "number";
const many = (value) => (there(value) ? value.toLocaleString("en") : "–");
const two = (value) => (there(value) ? value.toFixed(2).replace("-", "−") : "–");
const signed = (value) => (there(value) ? (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2) : "–");
const short = (value) => (there(value) ? String(Number(value.toPrecision(3))).replace("-", "−") : "–");
const percent = (value) => (there(value) ? short(100 * value) + " %" : "–");
const chance = (value) => (!there(value) ? "–" : value < 0.001 ? "< 0.001" : value.toFixed(3));
const span = (low, high, text) => (there(low) && there(high) ? ` [${text(low)}, ${text(high)}]` : "");
const words = (name) => name.replaceAll("_", " ");
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const plural = (n, word) => `${many(n)} ${word}${n === 1 ? "" : "s"}`;

function median(values) {
  const sorted = values.toSorted ? values.toSorted((a, b) => a - b) : [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

const STATISTICS = { auroc: "AUROC", pearson: "Pearson r", nats: "gain, nats", accuracy: "share found" };
const statistic = (way) => STATISTICS[way.statistic] || way.statistic;
const titled = (way) => `${way.name} (${way.variant.replace("_", " ")})`;
