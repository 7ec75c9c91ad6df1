// Fetches the page again and puts its middle in place of the old one. Without it the page is simply as of when it was loaded.
"use strict";

async function refresh() {
  const stale = document.getElementById("stale");
  try {
    const answer = await fetch("/", { headers: { accept: "text/html" }, cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.getElementById("main").replaceWith(fresh.getElementById("main"));
    document.querySelector("time").replaceWith(fresh.querySelector("time"));
    stale.hidden = true;
  } catch {
    stale.hidden = false;
  }
}

setInterval(() => { if (!document.hidden) refresh(); }, 5000);
