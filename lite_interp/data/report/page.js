// Start: from records to pages, and from page to page by the part of the address behind #.

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

// What stands behind # → the page that is shown for it; else it is a part of the overview.
const routes = [[/^#latent-(\d+)$/, (latent) => latentPage(Number(latent))]];

function routed(hash) {
  for (const [pattern, make] of routes) {
    const match = pattern.exec(hash);
    if (match) return () => make(...match.slice(1));
  }
  return null;
}

async function start(source) {
  theme();
  Object.assign(data, await source.overview(), { source });
  if (data.ways.length && !data.ways.some((way) => way.variant === state.variant)) state.variant = data.ways[0].variant;
  const main = document.getElementById("main"),
    name = document.title,
    first = overview();
  data.table = first.latents;
  let scrolled = 0,
    opened = 0;
  function home(before) {
    document.title = name;
    main.replaceChildren(first.page);
    if (before.dataset.latent) first.latents.restore(Number(before.dataset.latent));
    else first.latents.draw();
    scrollTo(0, scrolled);
  }
  async function route(begun) {
    const mine = (opened += 1),
      before = first.page.isConnected ? null : main.firstElementChild,
      make = routed(location.hash);
    if (!before && !begun) scrolled = scrollY;
    if (!make) {
      if (before) home(before);
      const part = location.hash && document.getElementById(location.hash.slice(1));
      if (part && (!before || part.id !== "latents")) part.scrollIntoView();
      return;
    }
    const page = await make();
    if (mine !== opened) return;
    const heading = page.querySelector("h1");
    document.title = `${page.dataset.latent ? `latent ${page.dataset.latent}` : heading.textContent} – ${name}`;
    main.replaceChildren(page);
    scrollTo(0, 0);
    heading.focus({ preventScroll: true });
  }
  listen(document.querySelector(".skip"), "click", (event) => {
    event.preventDefault(); // what stands behind # is the page
    main.focus();
  });
  main.replaceChildren(first.page);
  first.refresh();
  listen(window, "hashchange", () => route(false));
  listen(window, "resize", first.latents.draw);
  listen(matchMedia("print"), "change", (event) => first.latents.print(event.matches));
  await route(true);
}
