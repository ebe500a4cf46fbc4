// A page that has its records in itself: all rows, and a packed block for each latent, unpacked when it is opened.
const embedded = {
  rows: async () => localRows(sorted(matching())),
  plotted: async () => data.rows,
  overview: async () => {
    const record = JSON.parse(document.getElementById("overview-data").textContent),
      { rows } = record;
    const texts = new Map(rows.map((each) => [each.latent, each.explanation || each.failure]).reverse());
    return {
      ...record,
      n_rows: rows.length,
      arms: [...new Set(rows.map((each) => each.arm).filter(Boolean))],
      diagnoses: [...new Set(rows.map((each) => each.diagnosis))].sort(),
      has: (latent) => texts.has(latent),
      told: (latent) => texts.get(latent),
    };
  },
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

start(embedded);
