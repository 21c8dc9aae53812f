// What pages do beyond what forms and links can. Every text of others is set as text, never as markup.

import { clock } from "./clock.js";

const parts = (root) => Object.fromEntries([...root.querySelectorAll("[data-part]")].map((one) => [one.dataset.part, one]));

async function copied(text, source) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers have no clipboard for pages without TLS: copy what is selected, as a person would.
    const range = document.createRange();
    range.selectNodeContents(source);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    return document.execCommand("copy");
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  if (!(await copied(source.textContent, source))) return;
  const before = button.dataset.before ?? button.textContent;
  button.dataset.before = before;
  button.textContent = button.dataset.done;
  clearTimeout(button.timer);
  button.timer = setTimeout(() => (button.textContent = before), 1500);
});

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submits]")) event.target.form.requestSubmit();
});

document.addEventListener("input", (event) => {
  const list = event.target.dataset.filter;
  if (!list) return;
  const wanted = event.target.value.trim().toLowerCase();
  for (const one of document.getElementById(list).children) one.hidden = !one.textContent.toLowerCase().includes(wanted);
});

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.dataset.call) return;
  event.preventDefault();
  const button = form.querySelector("button:not([type])");
  const words = button.textContent;
  button.disabled = true;
  button.textContent = button.dataset.busy;
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      headers: { Accept: "application/json", "X-Console": "1" },
      body: new URLSearchParams(new FormData(form)),
    });
    show(document.getElementById(form.dataset.call), await answer.json());
  } catch (error) {
    show(document.getElementById(form.dataset.call), { ok: false, error: { message: String(error) } });
  } finally {
    button.disabled = false;
    button.textContent = words;
  }
});

function show(place, called) {
  const { state, time, text } = parts(place);
  state.className = `pill ${called.ok ? "good" : "bad"}`;
  state.textContent = called.ok ? place.dataset.good : place.dataset.bad;
  time.textContent = called.milliseconds === undefined ? "" : `${called.milliseconds} ms`;
  text.textContent = called.shown ?? called.message ?? called.error.message;
  place.hidden = false;
  place.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.form) event.target.form.requestSubmit();
});

// A key that was wrong does not stay in the address bar either.
if (document.querySelector("[data-clean-address]") && new URLSearchParams(location.search).has("key")) {
  const address = new URL(location.href);
  address.searchParams.delete("key");
  history.replaceState(null, "", address);
}

// Times stand in UTC where no script runs, else in the reader's own.
for (const time of document.querySelectorAll("time[data-ms]")) time.textContent = clock(Number(time.dataset.ms));

if (document.querySelector("#live[data-url]")) await import("./live.js");
