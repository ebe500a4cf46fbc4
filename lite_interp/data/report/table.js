// The table of latents: columns, sorting, filters, and rows drawn as they are needed.
//
// A source answers `rows(query)` with what was found: `n` rows, of which `at(place)` gives one if it
// is there, `need(first, last)` a promise if some are not, `n_printed` how many are printed (they must be there from the
// beginning), and `place(latent)` a promise of the place of a latent and of its neighbours in the order of the table.
const MOST_PRINTED = 2000;
const SHOWN = { value: [0, "score"], difference: [4, "score − null"], q: [7, "q-value"] };
const number = (row, place) => {
  const score = row.scores[place];
  return score ? score[SHOWN[state.show][0]] : null;
};

function columns() {
  const text = state.show === "q" ? chance : state.show === "difference" ? signed : two;
  const scored = data.ways
    .map((way, place) => ({ way, place }))
    .filter(({ way }) => way.variant === state.variant)
    .map(({ way, place }) => ({
      key: `way ${place}`,
      head: way.name,
      width: 5.6,
      value: (row) => number(row, place),
      show: (row) => text(number(row, place)),
      place,
      title: (row) => scoreTitle(way, row.scores[place]),
    }));
  return [
    { key: "latent", head: "latent", width: 4.8, value: (row) => row.latent },
    { key: "explanation", head: "explanation", width: 0, value: (row) => (row.explanation || "").toLowerCase(), words: true },
    {
      key: "density",
      head: "density",
      width: 4.6,
      value: (row) => row.density,
      show: (row) => percent(row.density),
      scale: 0.01,
      unit: " (%)",
    },
    ...scored,
    {
      key: "diagnosis",
      head: "diagnosis",
      width: 7.4,
      value: (row) => row.diagnosis,
      show: (row) => row.diagnosis,
      words: true,
    },
    { key: "tokens", head: "tokens", width: 4.5, value: (row) => row.tokens, show: (row) => many(row.tokens) },
    { key: "seconds", head: "seconds", width: 4.5, value: (row) => row.seconds, show: (row) => many(row.seconds) },
  ];
}

function scoreTitle(way, score) {
  if (!score) return null;
  const [value, low, high, none, difference, from, to, q] = score;
  return `${statistic(way)} ${two(value)}${span(low, high, two)}, null ${two(none)}, difference ${signed(difference)}${span(from, to, signed)}, q ${chance(q)}`;
}

function haystack(row) {
  row.haystack ??= [row.latent, row.explanation, row.failure, row.arm, row.diagnosis, ...row.flags.map(words), ...row.top_tokens]
    .join("\n")
    .toLowerCase();
  return row.haystack;
}

// What the rows are to be, in the units of the records.
function query() {
  const known = columns();
  const ranges = state.ranges.filter(
    ({ key, from, to }) => (from !== null || to !== null) && known.some((column) => column.key === key),
  );
  const scaled = (value, key) => (value === null ? null : value * (known.find((column) => column.key === key).scale || 1));
  return {
    text: state.text,
    arm: state.arm,
    diagnosis: state.diagnosis,
    show: state.show,
    key: known.some((column) => column.key === state.sort.key) ? state.sort.key : "latent",
    down: state.sort.down,
    ranges: ranges.map(({ key, from, to }) => [key, scaled(from, key), scaled(to, key)]),
  };
}

function matching() {
  const known = columns(),
    asked = query();
  const wanted = asked.text.toLowerCase().split(/\s+/).filter(Boolean);
  const ranges = asked.ranges.map(([key, from, to]) => [known.find((column) => column.key === key).value, from, to]);
  return data.rows.filter(
    (row) =>
      (!asked.arm || row.arm === asked.arm) &&
      (!asked.diagnosis || row.diagnosis === asked.diagnosis) &&
      wanted.every((word) => haystack(row).includes(word)) &&
      ranges.every(([number, from, to]) => {
        const value = number(row);
        return there(value) && (from === null || value >= from) && (to === null || value <= to);
      }),
  );
}

// What has no value stands at the end, whichever way is up.
function sorted(rows) {
  const asked = query(),
    sign = asked.down ? -1 : 1,
    key = columns().find((column) => column.key === asked.key).value;
  const missing = (value) => value === null || value === undefined || value === "";
  return [...rows].sort((a, b) => {
    const x = key(a),
      y = key(b);
    if (missing(x) || missing(y)) return missing(x) - missing(y) || a.latent - b.latent;
    return sign * (x < y ? -1 : x > y ? 1 : 0) || a.latent - b.latent;
  });
}

// Rows that are all here, as a source gives them.
function localRows(rows) {
  const order = () => [...new Set(rows.map((row) => row.latent))];
  return {
    n: rows.length,
    n_printed: Math.min(rows.length, MOST_PRINTED),
    at: (place) => rows[place],
    need: () => null,
    place: async (latent) => {
      const latents = order(),
        at = latents.indexOf(latent);
      return {
        place: rows.findIndex((row) => row.latent === latent),
        before: latents[at - 1],
        after: at < 0 ? undefined : latents[at + 1],
      };
    },
  };
}

// Draws only the rows that are seen, and keeps those that have the focus.
function latentTable() {
  const body = el("tbody"),
    above = el("td"),
    below = el("td"),
    head = el("tr"),
    group = el("colgroup");
  const space = (td) => el("tbody", { class: "space", "aria-hidden": "true" }, el("tr", null, td));
  const inner = el("table", null, group, el("thead", null, head), space(above), body, space(below));
  const box = el("div", { class: "rows", tabindex: "0", role: "region", "aria-label": "Latents" }, inner);
  const drawn = new Map();
  let rows = localRows([]),
    known = [],
    height = 33,
    everything = false,
    scrolled = 0;

  function line(place) {
    const record = rows.at(place);
    if (!record) return el("tr", { class: "waiting", "aria-rowindex": place + 2 }, el("td", { colspan: known.length }, "…"));
    const text =
      record.explanation === null ? el("em", { class: "dim" }, `(none: ${record.failure})`) : isolated(record.explanation);
    const arm =
      data.arms.length > 1 && !state.arm && record.arm ? el("span", { class: "dim" }, isolated(record.arm), ": ") : null;
    return el(
      "tr",
      { "aria-rowindex": place + 2 },
      el("th", { scope: "row", class: "first" }, el("a", { href: `#latent-${record.latent}` }, String(record.latent))),
      el("td", { title: record.explanation || record.failure }, arm, text),
      known.slice(2).map((column) => {
        const score = column.place === undefined ? null : record.scores[column.place];
        return el(
          "td",
          {
            class: (column.words ? "" : "number") + (score && there(score[7]) && score[7] < 0.05 ? " certain" : ""),
            title: column.title ? column.title(record) : null,
          },
          column.show(record),
        );
      }),
    );
  }

  async function load(first, last) {
    const asked = rows;
    await asked.need(first, last);
    if (asked !== rows) return;
    for (const [place, node] of drawn) {
      if (node.className !== "waiting" || !rows.at(place)) continue;
      drawn.set(place, line(place));
      node.replaceWith(drawn.get(place)); // were it taken away, a box at its end would be scrolled up
    }
    draw();
  }

  function draw() {
    const first = everything ? 0 : Math.max(0, Math.floor(box.scrollTop / height) - 8);
    const last = everything ? rows.n_printed : Math.min(rows.n, first + Math.ceil(box.clientHeight / height) + 18);
    for (const [place, node] of drawn) {
      if ((place < first || place >= last) && !node.contains(document.activeElement)) {
        node.remove();
        drawn.delete(place);
      }
    }
    let next = null;
    for (let place = last - 1; place >= first; place -= 1) {
      if (!drawn.has(place)) {
        drawn.set(place, line(place));
        body.insertBefore(drawn.get(place), next);
      }
      next = drawn.get(place);
    }
    if (rows.need(first, last)) load(first, last);
    above.style.height = `${first * height}px`;
    below.style.height = `${everything ? 0 : (rows.n - last) * height}px`;
    const real = next ? next.getBoundingClientRect().height : 0;
    if (!everything && real && Math.abs(real - height) > 0.01) {
      height = real;
      draw();
    }
  }

  function update(view, columns) {
    [rows, known] = [view, columns];
    drawn.clear();
    body.replaceChildren();
    box.scrollTop = scrolled = 0;
    inner.setAttribute("aria-rowcount", rows.n + 1);
    group.replaceChildren(
      ...known.map((column) => {
        const col = el("col");
        col.style.width = column.width ? `${column.width}rem` : "auto";
        return col;
      }),
    );
    inner.style.minWidth = `${known.reduce((sum, column) => sum + (column.width || 13), 0)}rem`;
    draw();
  }

  function titles(columns, sort) {
    head.replaceChildren(
      ...columns.map((column, place) => {
        const mine = state.sort.key === column.key;
        const order = mine ? (state.sort.down ? "descending" : "ascending") : null;
        const arrow = mine ? (state.sort.down ? " ▼" : " ▲") : "";
        return el(
          "th",
          { scope: "col", class: (column.words || !place ? "" : "number") + (place ? "" : " first"), "aria-sort": order },
          listen(el("button", { type: "button" }, column.head, arrow), "click", () => sort(column)),
        );
      }),
    );
  }

  async function focus(place) {
    const wanted = Math.min(rows.n - 1, Math.max(0, place)),
      top = wanted * height,
      room = box.clientHeight - 2.5 * height;
    if (top < box.scrollTop) box.scrollTop = top;
    if (top > box.scrollTop + room) box.scrollTop = top - room;
    draw();
    if (!rows.at(wanted)) await load(wanted, wanted + 1);
    const link = drawn.get(wanted) && drawn.get(wanted).querySelector("a");
    if (link) link.focus({ preventScroll: true });
    draw();
  }

  listen(box, "scroll", () => {
    if (box.isConnected) scrolled = box.scrollTop;
    draw();
  });
  listen(body, "keydown", (event) => {
    const at = event.target.closest("tr").getAttribute("aria-rowindex") - 2,
      page = Math.floor(box.clientHeight / height) - 2;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: rows.n - 1 }[
      event.key
    ];
    if (to !== undefined) {
      event.preventDefault();
      focus(to);
    }
  });
  function print(all) {
    everything = all;
    draw();
  }
  // A box that was out of the page has forgotten how far it was scrolled, and where the focus was.
  async function restore(latent) {
    box.scrollTop = scrolled;
    draw();
    const { place } = await rows.place(latent);
    if (place >= 0) await focus(place);
  }
  return { box, update, titles, draw, print, restore, place: (latent) => rows.place(latent) };
}

function rangeFilter(range, refresh, remove) {
  const field = (name, title) => {
    const input = el("input", { type: "number", step: "any", "aria-label": title });
    return listen(input, "input", () => {
      range[name] = input.value === "" || Number.isNaN(Number(input.value)) ? null : Number(input.value);
      refresh();
    });
  };
  const options = columns()
    .filter((column) => !column.words)
    .map((column) => [column.key, column.head + (column.unit || "")]);
  return el(
    "fieldset",
    { class: "range" },
    choice("where", options, range.key, (key) => {
      range.key = key;
      refresh();
    }),
    "from",
    field("from", "from"),
    "to",
    field("to", "to"),
    listen(el("button", { type: "button", "aria-label": "Remove this condition" }, "×"), "click", remove),
  );
}

function filters(refresh) {
  const search = listen(
    el("input", {
      type: "search",
      id: "search",
      "aria-label": "Search explanations, tokens, flags",
      placeholder: "words in explanations, tokens, flags",
    }),
    "input",
    (event) => {
      state.text = event.target.value;
      refresh();
    },
  );
  const ranges = el("span", { class: "controls" });
  function add() {
    const range = { key: "density", from: null, to: null };
    state.ranges.push(range);
    const made = rangeFilter(range, refresh, () => {
      state.ranges.splice(state.ranges.indexOf(range), 1);
      made.remove();
      refresh();
    });
    ranges.append(made);
    made.querySelector("select").focus();
  }
  return [
    search,
    choice("diagnosis", [["", "any"], ...data.diagnoses.map((name) => [name, name])], state.diagnosis, (value) => {
      state.diagnosis = value;
      refresh();
    }),
    ranges,
    listen(el("button", { type: "button" }, "add a range"), "click", add),
  ];
}
