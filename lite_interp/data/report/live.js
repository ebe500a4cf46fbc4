// Records from the server of this page, as they are needed.
const CHUNK = 200;

async function ask(path, parameters, body) {
  const address = `api/${path}${parameters ? `?${new URLSearchParams(parameters)}` : ""}`;
  const posted = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(address, body && posted);
  } catch {
    throw new Error("the server does not answer: was it stopped?");
  }
  if (answer.status === 403) throw new Error("the server refuses: it was started anew, and its address is another one");
  if (!(answer.headers.get("content-type") || "").startsWith("application/json"))
    throw new Error(`the server failed (${answer.status}): its terminal says how`);
  const said = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(said.error), { hint: said.hint });
  for (const node of document.querySelectorAll("main > [role=alert]")) node.remove();
  return said;
}

// What went wrong, where everybody looks.
const failed = (error) =>
  el("p", { class: "bad", role: "alert" }, isolated(error.message), error.hint ? el("small", null, ` ${error.hint}`) : null);

async function liveRows(asked) {
  const query = JSON.stringify(asked),
    known = new Map(),
    waiting = new Map();
  async function load(chunk) {
    try {
      const { n, rows } = await ask("rows", { query, first: chunk * CHUNK, n: CHUNK });
      rows.forEach((row, place) => known.set(chunk * CHUNK + place, row));
      return n;
    } finally {
      waiting.delete(chunk); // what failed is asked for again
    }
  }
  const n = await load(0);
  function need(first, last) {
    const wanted = [];
    for (let chunk = Math.floor(first / CHUNK); chunk * CHUNK < Math.min(last, n); chunk += 1) {
      if (known.has(chunk * CHUNK)) continue;
      if (!waiting.has(chunk)) waiting.set(chunk, load(chunk));
      wanted.push(waiting.get(chunk));
    }
    return wanted.length ? Promise.all(wanted) : null;
  }
  return {
    n,
    n_printed: Math.min(n, CHUNK),
    need,
    at: (place) => known.get(place),
    place: (latent) => ask("place", { query, latent }),
  };
}

const live = {
  told: new Map(),
  rows: liveRows,
  plotted: (arm) => ask("plotted", { arm }),
  overview: async () => ({
    ...(await ask("overview")),
    has: () => true,
    told: (latent) => live.told.get(latent),
  }),
  windows: (latent) => ask("windows", { latent }),
  latent: async (latent) => {
    const record = await ask("latent", { latent });
    for (const [other, text] of Object.entries(record.told)) live.told.set(Number(other), text);
    return record;
  },
};
