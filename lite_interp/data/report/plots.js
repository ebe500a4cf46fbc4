// Plots as inline SVG.
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
