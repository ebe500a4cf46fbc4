"use strict";
// Shows the records of lite-interp (lite_interp/report/). Every text reaches the page as a text
// node or an attribute, never as markup.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const MOST_PRINTED = 2000;
  const data = {};
  const state = { arm: "", variant: "raw", show: "value", text: "", diagnosis: "", ranges: [] };
  state.sort = { key: "latent", down: false };

  // ---------------------------------------------------------------- building

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

  // ---------------------------------------------------------------- numbers

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

  // ---------------------------------------------------------------- plots

  function range(way, values) {
    if (way.statistic === "auroc" || way.statistic === "accuracy") return [0, 1];
    const low = Math.min(0, ...values),
      high = Math.max(0, ...values);
    return low === high ? [low - 1, high + 1] : [low, high];
  }

  function frame(label, width, height, ...children) {
    return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label }, children);
  }

  function ticks(from, to, at, y) {
    return [0, 0.5, 1].map((share) =>
      svg(
        "text",
        { x: at(from + share * (to - from)), y, "text-anchor": share === 0 ? "start" : share === 1 ? "end" : "middle" },
        short(from + share * (to - from)),
      ),
    );
  }

  function shares(values, from, to, n) {
    const found = new Array(n).fill(0);
    for (const value of values)
      found[Math.min(n - 1, Math.max(0, Math.floor((n * (value - from)) / (to - from))))] += 1 / values.length;
    return found;
  }

  // Values upwards, and the null under them, hanging; both as shares, for a null may have fewer.
  function distribution(way, values, nulls) {
    const [from, to] = range(way, [...values, ...nulls]),
      width = 280,
      top = 64,
      bottom = 50,
      n = 24;
    const above = shares(values, from, to, n),
      below = shares(nulls, from, to, n);
    const most = Math.max(...above, ...below) || 1,
      at = (value) => (width * (value - from)) / (to - from);
    const bars = (found, kind, y, size) =>
      found.map((share, place) =>
        share
          ? svg("rect", {
              class: kind,
              x: (width / n) * place + 0.5,
              width: width / n - 1,
              y: kind === "bar" ? y - (size * share) / most : y,
              height: (size * share) / most,
            })
          : null,
      );
    const pin = (some, y1, y2) =>
      some.length ? svg("line", { class: "mean", x1: at(mean(some)), x2: at(mean(some)), y1, y2 }) : null;
    const label =
      `Distribution of ${statistic(way)}: ${plural(values.length, "value")}` +
      (values.length ? `, mean ${two(mean(values))}` : "") +
      (nulls.length ? `; null, mean ${two(mean(nulls))}` : "");
    return frame(
      label,
      width,
      top + bottom + 18,
      way.statistic === "auroc" ? svg("line", { class: "chance", x1: at(0.5), x2: at(0.5), y1: 0, y2: top + bottom }) : null,
      bars(above, "bar", top, top - 4),
      bars(below, "null", top, bottom - 4),
      svg("line", { class: "axis", x1: 0, x2: width, y1: top, y2: top }),
      pin(values, top - 8, top),
      pin(nulls, top, top + 8),
      ticks(from, to, at, top + bottom + 14),
    );
  }

  function scatter(way, points) {
    const width = 280,
      height = 150,
      left = 4;
    const logs = points.map(([row]) => Math.log10(row.density)),
      [from, to] = range(
        way,
        points.map(([, value]) => value),
      );
    const low = Math.floor(Math.min(...logs)),
      high = Math.max(low + 1, Math.ceil(Math.max(...logs)));
    const x = (log) => left + ((width - 2 * left) * (log - low)) / (high - low);
    const y = (value) => height - left - ((height - 2 * left) * (value - from)) / (to - from);
    const places = points.map(([, value], place) => [x(logs[place]), y(value)]);
    const ring = svg("circle", { class: "near", r: 6, visibility: "hidden" }),
      told = el("p", { class: "small dim" }, "Point at a latent; a click opens it.");
    const drawn = frame(
      `Density against ${statistic(way)} of ${plural(points.length, "latent")}; the table has the numbers.`,
      width,
      height + 18,
      svg("path", { class: "points", d: places.map(([px, py]) => `M${px.toFixed(1)} ${py.toFixed(1)}h0`).join("") }),
      svg("line", { class: "axis", x1: 0, x2: width, y1: height, y2: height }),
      ring,
      svg("text", { x: 0, y: height + 14 }, percent(10 ** low)),
      svg("text", { x: width, y: height + 14, "text-anchor": "end" }, percent(10 ** high)),
      svg("text", { x: width / 2, y: height + 14, "text-anchor": "middle" }, "density"),
      svg("text", { x: 2, y: 10 }, short(to)),
      svg("text", { x: 2, y: height - 4 }, short(from)),
    );
    function nearest(event) {
      const box = drawn.getBoundingClientRect(),
        scale = width / box.width;
      const mx = (event.clientX - box.left) * scale,
        my = (event.clientY - box.top) * scale;
      let best = 0,
        least = Infinity;
      places.forEach(([px, py], place) => {
        const far = (px - mx) ** 2 + (py - my) ** 2;
        if (far < least) [best, least] = [place, far];
      });
      return best;
    }
    listen(drawn, "pointermove", (event) => {
      const place = nearest(event),
        [found, value] = points[place];
      fill(ring, { cx: places[place][0], cy: places[place][1], visibility: "visible" }, []);
      told.replaceChildren(`latent ${found.latent}: ${two(value)}, `, isolated(found.explanation || found.failure || ""));
    });
    listen(drawn, "click", (event) => {
      location.hash = `latent-${points[nearest(event)][0].latent}`;
    });
    return [drawn, told];
  }

  function activations(record) {
    const width = 420,
      height = 110,
      found = record.histogram,
      most = Math.log1p(Math.max(1, ...found));
    const wide = width / Math.max(1, found.length);
    return frame(
      `Histogram of ${plural(record.n_firings, "activation")} from 0 to ${short(record.max)}, counts on a logarithmic scale`,
      width,
      height + 18,
      found.map((count, place) =>
        svg(
          "rect",
          {
            class: "bar",
            x: place * wide + 1,
            width: wide - 2,
            y: height - (height * Math.log1p(count)) / most,
            height: (height * Math.log1p(count)) / most,
          },
          svg(
            "title",
            null,
            `${short((record.max * place) / found.length)} to ${short((record.max * (place + 1)) / found.length)}: ${plural(count, "firing")}`,
          ),
        ),
      ),
      svg("line", { class: "axis", x1: 0, x2: width, y1: height, y2: height }),
      ticks(0, record.max, (value) => (width * value) / (record.max || 1), height + 14),
    );
  }

  function interval(way, score, [from, to]) {
    const width = 150,
      at = (value) => 3 + ((width - 6) * (Math.min(to, Math.max(from, value)) - from)) / (to - from);
    return frame(
      `${two(score.value)}${span(score.low, score.high, two)}, null ${two(score.null)}`,
      width,
      16,
      svg("line", { class: "axis", x1: 3, x2: width - 3, y1: 14, y2: 14, "stroke-opacity": 0.4 }),
      way.statistic === "auroc" ? svg("line", { class: "chance", x1: at(0.5), x2: at(0.5), y1: 1, y2: 14 }) : null,
      there(score.null) ? svg("line", { class: "tick", x1: at(score.null), x2: at(score.null), y1: 2, y2: 14 }) : null,
      there(score.low) && there(score.high)
        ? svg("line", { class: "interval", x1: at(score.low), x2: at(score.high), y1: 8, y2: 8 })
        : null,
      there(score.value) ? svg("circle", { class: "bar", cx: at(score.value), cy: 8, r: 4 }) : null,
    );
  }

  // ---------------------------------------------------------------- the table of latents

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
    row.haystack ??= [
      row.latent,
      row.explanation,
      row.failure,
      row.arm,
      row.diagnosis,
      ...row.flags.map(words),
      ...row.top_tokens,
    ]
      .join("\n")
      .toLowerCase();
    return row.haystack;
  }

  function matching(known) {
    const wanted = state.text.toLowerCase().split(/\s+/).filter(Boolean);
    const ranges = state.ranges
      .map((range) => ({ ...range, column: known.find((column) => column.key === range.key) }))
      .filter(({ column, from, to }) => column && (from !== null || to !== null));
    return data.rows.filter(
      (row) =>
        (!state.arm || row.arm === state.arm) &&
        (!state.diagnosis || row.diagnosis === state.diagnosis) &&
        wanted.every((word) => haystack(row).includes(word)) &&
        ranges.every(({ column, from, to }) => {
          const value = column.value(row),
            scale = column.scale || 1;
          return there(value) && (from === null || value >= from * scale) && (to === null || value <= to * scale);
        }),
    );
  }

  // What has no value stands at the end, whichever way is up.
  function sorted(rows, column) {
    const sign = state.sort.down ? -1 : 1,
      key = column.value;
    const missing = (value) => value === null || value === undefined || value === "";
    return [...rows].sort((a, b) => {
      const x = key(a),
        y = key(b);
      if (missing(x) || missing(y)) return missing(x) - missing(y) || a.latent - b.latent;
      return sign * (x < y ? -1 : x > y ? 1 : 0) || a.latent - b.latent;
    });
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
    let rows = [],
      known = [],
      height = 33,
      everything = false,
      scrolled = 0;

    function line(place) {
      const record = rows[place];
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

    function draw() {
      const first = everything ? 0 : Math.max(0, Math.floor(box.scrollTop / height) - 8);
      const last = everything
        ? Math.min(rows.length, MOST_PRINTED)
        : Math.min(rows.length, first + Math.ceil(box.clientHeight / height) + 18);
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
      above.style.height = `${first * height}px`;
      below.style.height = `${everything ? 0 : (rows.length - last) * height}px`;
      const real = next ? next.getBoundingClientRect().height : 0;
      if (!everything && real && Math.abs(real - height) > 0.01) {
        height = real;
        draw();
      }
    }

    function update(found, columns) {
      [rows, known] = [found, columns];
      drawn.clear();
      body.replaceChildren();
      box.scrollTop = scrolled = 0;
      inner.setAttribute("aria-rowcount", rows.length + 1);
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

    function focus(place) {
      const wanted = Math.min(rows.length - 1, Math.max(0, place)),
        top = wanted * height,
        room = box.clientHeight - 2.5 * height;
      if (top < box.scrollTop) box.scrollTop = top;
      if (top > box.scrollTop + room) box.scrollTop = top - room;
      draw();
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
      const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: rows.length - 1 }[
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
    function restore(latent) {
      box.scrollTop = scrolled;
      const place = rows.findIndex((record) => record.latent === latent);
      if (place >= 0) focus(place);
      else draw();
    }
    return { box, update, titles, draw, print, restore, shown: () => rows };
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
    const diagnoses = [...new Set(data.rows.map((row) => row.diagnosis))].sort();
    return [
      search,
      choice("diagnosis", [["", "any"], ...diagnoses.map((name) => [name, name])], state.diagnosis, (value) => {
        state.diagnosis = value;
        refresh();
      }),
      ranges,
      listen(el("button", { type: "button" }, "add a range"), "click", add),
    ];
  }

  // ---------------------------------------------------------------- overview

  const ofArm = (rows) => rows.filter((row) => !state.arm || row.arm === state.arm);

  function scoreCards() {
    const rows = ofArm(data.rows);
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

  function densityCards() {
    const rows = ofArm(data.rows);
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
      found = el("p", { role: "status", class: "small" });
    const dynamic = { scores: el("div", { class: "cards" }), density: el("div", { class: "cards" }), agreement: el("div") };
    function refreshRows() {
      const known = columns(),
        column = known.find((each) => each.key === state.sort.key) || known[0];
      const rows = sorted(matching(known), column);
      latents.titles(known, sortBy);
      latents.update(rows, known);
      found.textContent = `${many(rows.length)} of ${plural(data.rows.length, "row")}${rows.length > MOST_PRINTED ? `; the first ${many(MOST_PRINTED)} are printed` : ""}`;
    }
    function sortBy(column) {
      state.sort = {
        key: column.key,
        down: state.sort.key === column.key ? !state.sort.down : !column.words && column.key !== "latent",
      };
      refreshRows();
      latents.box.querySelector("th[aria-sort] button").focus();
    }
    function refresh() {
      dynamic.scores.replaceChildren(...scoreCards().filter(Boolean));
      dynamic.density.replaceChildren(...densityCards().filter(Boolean));
      fill(dynamic.agreement, null, []).replaceChildren(...[agreement()].flat().filter(Boolean));
      refreshRows();
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
        found,
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

  // ---------------------------------------------------------------- windows

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

  function reachable(box) {
    const first = box.querySelector("mark");
    if (first) first.tabIndex = 0;
  }

  // One stop for the tab key in all windows: arrow keys go from firing token to firing token.
  function walkable(box) {
    const all = () => [...box.querySelectorAll("mark")];
    reachable(box);
    listen(box, "keydown", (event) => {
      if (event.target.tagName !== "MARK") return;
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
      if (!set) return box.replaceChildren(el("p", { class: "dim" }, "No windows are stored: this latent was not explained."));
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
      reachable(box);
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

  // ---------------------------------------------------------------- one latent

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
          data.latents.has(latent)
            ? el("a", { href: `#latent-${latent}`, title: data.firstText.get(latent) }, String(latent))
            : String(latent),
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

  function moves(latent) {
    const order = [...new Set(data.table.shown().map((each) => each.latent))],
      at = order.indexOf(latent);
    const link = (to, text) => (to === undefined ? null : el("a", { href: `#latent-${to}` }, `${text} ${to}`));
    return el(
      "nav",
      { class: "move", "aria-label": "Other latents" },
      el("a", { href: "#latents" }, "all latents"),
      link(order[at - 1], "← latent"),
      at < 0 ? null : link(order[at + 1], "latent →"),
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
      moves(latent),
      heading,
      record ? latentPart(record) : el("p", null, "This latent is not in the page."),
    );
  }

  // ---------------------------------------------------------------- start

  // Where records come from: here, blocks in the page; a latent's is unpacked when it is opened.
  const embedded = {
    overview: async () => JSON.parse(document.getElementById("overview-data").textContent),
    latent: async (latent) => {
      const block = () => document.getElementById(`latent-data-${latent}`);
      if (!block() && document.readyState === "loading") await new Promise((done) => listen(document, "DOMContentLoaded", done));
      return block() && unpacked(block().textContent);
    },
  };

  async function unpacked(base64) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  function theme() {
    const select = document.getElementById("theme"),
      root = document.documentElement;
    const set = (name) => {
      if (name) root.dataset.theme = name;
      else delete root.dataset.theme;
    };
    try {
      select.value = localStorage.getItem("lite-interp-theme") || "";
    } catch {
      /* storage may be forbidden */
    }
    set(select.value);
    listen(select, "change", () => {
      set(select.value);
      try {
        localStorage.setItem("lite-interp-theme", select.value);
      } catch {
        /* the same */
      }
    });
  }

  async function start(source) {
    theme();
    Object.assign(data, await source.overview(), { source });
    data.arms = [...new Set(data.rows.map((each) => each.arm).filter(Boolean))];
    data.latents = new Set(data.rows.map((each) => each.latent));
    data.firstText = new Map(data.rows.map((each) => [each.latent, each.explanation || each.failure]).reverse());
    if (data.ways.length && !data.ways.some((way) => way.variant === state.variant)) state.variant = data.ways[0].variant;
    const main = document.getElementById("main"),
      name = document.title,
      first = overview();
    data.table = first.latents;
    let scrolled = 0,
      opened = 0;
    async function route(begun) {
      const wanted = /^#latent-(\d+)$/.exec(location.hash),
        mine = (opened += 1);
      const before = document.getElementById("latent");
      if (!before && !begun) scrolled = scrollY;
      if (!wanted && before) {
        document.title = name;
        main.replaceChildren(first.page);
        first.latents.restore(Number(before.dataset.latent));
        scrollTo(0, scrolled);
      }
      if (!wanted) {
        const part = location.hash && document.getElementById(location.hash.slice(1));
        if (part && (!before || part.id !== "latents")) part.scrollIntoView();
        return;
      }
      const page = await latentPage(Number(wanted[1]));
      if (mine !== opened) return;
      document.title = `latent ${wanted[1]} – ${name}`;
      main.replaceChildren(page);
      scrollTo(0, 0);
      page.querySelector("h1").focus({ preventScroll: true });
    }
    main.replaceChildren(first.page);
    first.refresh();
    listen(window, "hashchange", () => route(false));
    listen(window, "resize", first.latents.draw);
    listen(matchMedia("print"), "change", (event) => first.latents.print(event.matches));
    await route(true);
  }

  start(embedded);
})();
