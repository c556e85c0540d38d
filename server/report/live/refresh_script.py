"""The script of a page that refreshes itself: it asks for the page again and shows what changed."""

REFRESH_SECONDS = 2.0
"""Between two questions of an open page."""

REFRESH_SCRIPT = (
    """\
"use strict";
let version = "";
async function refresh() {
  let finished = false;
  try {
    const heard = await fetch(location.pathname, {headers: {"If-None-Match": version}});
    if (heard.status === 200) {
      version = heard.headers.get("ETag") || "";
      const page = new DOMParser().parseFromString(await heard.text(), "text/html");
      const old = document.querySelector("main"), now = page.querySelector("main");
      const opened = [...old.querySelectorAll("details")].filter((part) => part.open)
        .map((part) => part.querySelector("summary").textContent);
      for (const part of now.querySelectorAll("details"))
        part.open = opened.includes(part.querySelector("summary").textContent);
      old.replaceWith(document.adoptNode(now));
      document.title = page.title;
    }
    document.body.classList.remove("unreachable");
    finished = document.querySelector("main").hasAttribute("data-finished");
  } catch (error) {
    document.body.classList.add("unreachable");
  }
  if (!finished) setTimeout(refresh, """
    + f"{1000 * REFRESH_SECONDS:.0f}"
    + """);
}
refresh();
"""
)
"""It stops once the page of the finished run is shown. Parts that a reader opened stay open."""
