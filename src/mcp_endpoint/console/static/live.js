// New records on top of the list, as they come.

import { clock, took } from "./clock.js";
import { Component, html, render } from "./vendor/htm-preact.js";

const ROWS = 200; // more are a page of their own
const place = document.getElementById("live");
const state = document.getElementById("live-state");
const pause = document.getElementById("pause");

function Row({ one }) {
  const code = one.code === null ? "" : ` ${one.code}`;
  return html`<article><a class="record new" href=${place.dataset.record + one.id}>
    <span class="at"><time>${clock(one.at)}</time></span>
    <strong>${one.what}</strong>
    <span class="where">${[one.endpoint, one.label].filter(Boolean).join(" · ")}</span>
    <span class=${`pill ${one.status === "ok" ? "good" : "bad"}`}>${one.status}${code}</span>
    <span class="number">${took(one.ms)}</span>
  </a></article>`;
}

class Feed extends Component {
  state = { rows: [], waiting: [], missed: 0, paused: false, open: false };

  componentDidMount() {
    pause.hidden = false;
    pause.addEventListener("click", () => this.hold(!this.state.paused));
    document.addEventListener("visibilitychange", () => (document.hidden ? this.leave() : this.follow()));
    this.last = new URLSearchParams(place.dataset.url.split("?")[1]).get("after");
    this.follow();
  }

  // A hidden tab gives its connection back: a browser has only six of them for a host.
  leave() {
    this.source?.close();
    this.source = undefined;
    this.setState({ open: false });
  }

  follow() {
    if (this.source || document.hidden) return;
    const [path, query] = place.dataset.url.split("?");
    const wanted = new URLSearchParams(query);
    wanted.set("after", this.last);
    this.source = new EventSource(`${path}?${wanted}`);
    this.source.onopen = () => this.setState({ open: true });
    this.source.onerror = () => this.setState({ open: false });
    this.source.addEventListener("records", (event) => {
      this.last = event.lastEventId;
      const { records, missed } = JSON.parse(event.data);
      this.setState(({ rows, waiting, paused, missed: before }) => {
        const into = [...records.reverse(), ...(paused ? waiting : rows)].slice(0, ROWS);
        return { [paused ? "waiting" : "rows"]: into, missed: before + missed };
      });
    });
  }

  hold(paused) {
    this.setState(({ rows, waiting }) => (paused ? { paused } : { paused, rows: [...waiting, ...rows].slice(0, ROWS), waiting: [] }));
  }

  render(_, { rows, waiting, missed, paused, open }) {
    const words = state.dataset;
    pause.textContent = paused ? pause.dataset.paused : pause.dataset.live;
    const parts = [open ? words.live : words.away];
    if (waiting.length) parts.push(`${waiting.length} ${words.new}`);
    if (missed) parts.push(`${missed} ${words.missed}`);
    state.textContent = parts.join(" · ");
    const nothing = document.getElementById("nothing");
    if (nothing) nothing.hidden = rows.length > 0;
    return rows.map((one) => html`<${Row} key=${one.id} one=${one} />`);
  }
}

render(html`<${Feed} />`, place);
