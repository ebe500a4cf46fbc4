// Any latent, whether it is in the table or not.
function opener() {
  const most = data.study.n_latents - 1,
    field = el("input", {
      type: "number",
      min: 0,
      max: most,
      required: true,
      "aria-label": `Latent, 0 to ${most}`,
      placeholder: "latent",
    });
  return listen(el("form", null, field, el("button", null, "open")), "submit", (event) => {
    event.preventDefault();
    location.hash = `latent-${Number(field.value)}`;
  });
}

// A live page: its tools stand in the head, and what goes wrong on the way is said in the page.
async function serve() {
  const main = document.getElementById("main");
  for (const [pattern, make] of routes.splice(0)) {
    routes.push([
      pattern,
      async (...parts) => {
        try {
          return await make(...parts);
        } catch (error) {
          return el(
            "article",
            null,
            el("a", { href: "#latents" }, "all latents"),
            el("h1", { tabindex: "-1" }, "Not shown"),
            failed(error),
          );
        }
      },
    ]);
  }
  listen(window, "unhandledrejection", (event) => {
    event.preventDefault();
    main.querySelectorAll(":scope > [role=alert]").forEach((node) => node.remove());
    main.prepend(failed(event.reason));
  });
  await start(live);
  const tools = [["#search", "search"], ["#fires", "which latents fire here"], ...(data.rating ? [["#rate", "rate"]] : [])];
  document.querySelector(".top .what").after(
    el(
      "nav",
      { class: "controls", "aria-label": "Tools" },
      opener(),
      tools.map(([href, text]) => el("a", { href }, text)),
    ),
  );
}

serve();
