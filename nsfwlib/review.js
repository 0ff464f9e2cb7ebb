// The grid of one page. State lives in Python; this paints a decision at once and is corrected by the answer.
// Pixels come in messages, never in synced traits, so no saved widget state can hold one.

const ACTIONS = [["keep", "k", "✓"], ["drop", "d", "✕"], ["unsure", "?", "?"], ["escalate", "e", "!"]];
const MARK = Object.fromEntries(ACTIONS.map(([name, , mark]) => [name, mark]));
const IDLE_LIMIT = 120; // seconds: longer than that nobody looked at one picture

const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

function render({ model, el }) {
  const classes = model.get("classes");
  const root = make("div", "nsfw-review");
  root.setAttribute("data-lm-suppress-shortcuts", "true");
  const head = make("div", "nsfw-head");
  const body = make("div", "nsfw-body");
  const grid = make("div", "nsfw-grid");
  grid.tabIndex = 0;
  grid.setAttribute("role", "listbox");
  grid.setAttribute("aria-label", "Pictures of this page");
  const side = make("div", "nsfw-side");
  const status = make("div", "nsfw-status");
  status.setAttribute("role", "status");
  status.setAttribute("aria-live", "polite");
  const help = make("div", "nsfw-help");
  help.hidden = true;
  body.append(grid, side);
  root.append(head, body, status, help);

  let page = null, cells = [], cur = 0, seq = 0, waiting = false, since = performance.now();
  const pending = new Map(); // path -> seq of the last decision not yet confirmed
  const urls = new Map(); // key -> object URL, so that every one is revoked
  const id = `nsfw-${Math.random().toString(36).slice(2)}`;

  const url = (key, buffer) => {
    drop(key);
    const made = URL.createObjectURL(new Blob([buffer], { type: "image/jpeg" }));
    urls.set(key, made);
    return made;
  };
  const drop = (key) => { if (urls.has(key)) { URL.revokeObjectURL(urls.get(key)); urls.delete(key); } };
  const send = (op, more = {}) => { model.send({ op, seq: ++seq, ...more }); return seq; };
  const row = () => page?.rows[cur];
  const seconds = () => {
    const now = performance.now(), spent = (now - since) / 1000;
    since = now;
    return Math.round(Math.min(spent, IDLE_LIMIT) * 1000) / 1000;
  };

  const words = (decision) => (decision ? `${MARK[decision] ?? "→"} ${decision}` : "");
  const paint = (i) => {
    const r = page.rows[i], c = cells[i];
    c.dataset.decision = r.decision ? (MARK[r.decision] ? r.decision : "relabel") : "";
    c.querySelector(".nsfw-badge").textContent = words(r.decision);
    c.setAttribute("aria-label", `Picture ${i + 1} of ${cells.length}, given ${r.given}, suggested ${r.suggested}, ` +
      (r.decision || "undecided") + (r.note ? `, ${r.note}` : ""));
    if (r.decision === "escalate") { conceal(i); drop(r.path); c.querySelector("img")?.remove(); c.dataset.hidden = "escalated"; }
    if (i === cur) paintSide();
  };
  const conceal = (i) => {
    const r = page?.rows[i];
    if (!r || !urls.has("sharp")) return;
    drop("sharp");
    cells[i].classList.remove("nsfw-revealed");
    const img = cells[i].querySelector("img");
    if (img && urls.has(r.path)) img.src = urls.get(r.path);
    paintSide();
  };
  const select = (i) => {
    if (!page || i < 0 || i >= cells.length) return;
    if (i !== cur) conceal(cur);
    cells[cur]?.setAttribute("aria-selected", "false");
    cur = i;
    cells[cur].setAttribute("aria-selected", "true");
    grid.setAttribute("aria-activedescendant", cells[cur].id);
    cells[cur].scrollIntoView({ block: "nearest" });
    paintSide();
  };

  const decide = (decision) => {
    if (!page || waiting || !row()) return;
    const r = row();
    r.decision = decision;
    pending.set(r.path, send("decide", { path: r.path, decision, seconds: seconds() }));
    paint(cur);
    status.textContent = `Picture ${cur + 1}: ${decision}`;
    if (model.get("advance") && cur + 1 < cells.length) select(cur + 1);
  };
  const accept = () => {
    if (!page || waiting) return;
    conceal(cur);
    waiting = true;
    page.rows.forEach((r, i) => { if (!r.decision) { r.decision = page.default; paint(i); } });
    send("accept", { page: page.page, seconds: seconds() });
  };
  const go = (step) => { if (page && !waiting) { conceal(cur); waiting = true; send("go", { step }); } };
  const reveal = () => {
    if (!page || waiting || !row()) return;
    if (urls.has("sharp")) conceal(cur);
    else if (row().decision !== "escalate") send("reveal", { path: row().path });
  };
  const columns = () => getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const toggleHelp = () => { help.hidden = !help.hidden; };

  const keys = {
    ArrowRight: () => select(cur + 1), ArrowLeft: () => select(cur - 1),
    ArrowDown: () => select(cur + columns()), ArrowUp: () => select(cur - columns()),
    Home: () => select(0), End: () => select(cells.length - 1),
    Enter: accept, " ": reveal, u: () => send("undo"), r: () => send("redo"), h: toggleHelp,
    PageDown: () => go(1), PageUp: () => go(-1),
    Escape: () => { help.hidden = true; conceal(cur); },
  };
  ACTIONS.forEach(([name, key]) => { keys[key] = () => decide(name); });
  classes.slice(0, 9).forEach((name, i) => { keys[i + 1] = () => decide(name); });

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab") return;
    event.stopPropagation(); // no letter typed here may reach the notebook's own shortcuts
    if (event.target.closest("button") && (event.key === "Enter" || event.key === " ")) return;
    const handler = keys[event.key];
    if (handler) { event.preventDefault(); handler(); }
  });

  const button = (text, key, run, className = "") => {
    const node = make("button", `nsfw-button ${className}`);
    node.type = "button";
    node.append(make("span", "", text));
    if (key) node.append(make("kbd", "", key));
    node.addEventListener("click", () => { run(); grid.focus({ preventScroll: true }); });
    return node;
  };
  const bars = make("div", "nsfw-classes");
  const classButtons = classes.map((name, i) => {
    const node = button(name, i < 9 ? String(i + 1) : "", () => decide(name), "nsfw-class");
    node.append(make("i", "nsfw-bar"));
    bars.append(node);
    return node;
  });
  const large = make("div", "nsfw-large"), facts = make("div", "nsfw-facts"), acts = make("div", "nsfw-acts");
  ACTIONS.forEach(([name, key]) => acts.append(button(name, key, () => decide(name))));
  acts.append(button("reveal", "space", reveal), button("undo", "u", () => send("undo")),
    button("redo", "r", () => send("redo")), button("help", "h", toggleHelp));
  const acceptButton = button("Accept page", "Enter", accept, "nsfw-primary");
  side.append(large, facts, bars, acts, acceptButton);

  const paintSide = () => {
    const r = row();
    if (!r) { large.replaceChildren(); facts.textContent = ""; return; }
    const src = r.decision === "escalate" ? null : urls.get("sharp") ?? urls.get(r.path);
    if (src) { const img = make("img"); img.src = src; img.alt = ""; large.replaceChildren(img); }
    else large.replaceChildren(make("span", "nsfw-none", r.note || "not shown"));
    facts.textContent = `${r.given} → ${r.suggested}`;
    facts.title = r.path;
    classButtons.forEach((node, i) => {
      const p = r.probs ? r.probs[i] : null;
      node.querySelector(".nsfw-bar").style.width = p === null ? "0" : `${Math.round(p * 100)}%`;
      node.dataset.role = classes[i] === r.given ? "given" : classes[i] === r.suggested ? "suggested" : "";
      node.setAttribute("aria-pressed", String(r.decision === classes[i]));
    });
  };

  const build = (message, buffers) => {
    [...urls.keys()].forEach(drop);
    pending.clear();
    page = message;
    waiting = false;
    since = performance.now();
    head.textContent = message.title;
    cells = page.rows.map((r, i) => {
      const c = make("div", "nsfw-cell");
      c.id = `${id}-${i}`;
      c.setAttribute("role", "option");
      c.setAttribute("aria-selected", "false");
      const box = make("div", "nsfw-picture");
      if (buffers[i]?.byteLength) { const img = make("img"); img.src = url(r.path, buffers[i]); img.alt = ""; img.draggable = false; box.append(img); }
      else box.append(make("span", "nsfw-none", r.note || "not shown"));
      const caption = make("div", "nsfw-caption");
      caption.append(make("span", "nsfw-badge"));
      const bar = make("div", "nsfw-odds");
      const fill = make("i");
      fill.style.width = `${Math.round(100 * (r.odds ?? 0))}%`;
      bar.append(fill);
      c.append(box, bar, caption);
      c.addEventListener("click", () => { select(i); grid.focus({ preventScroll: true }); });
      c.addEventListener("dblclick", reveal);
      return c;
    });
    grid.replaceChildren(...cells);
    cur = 0;
    acceptButton.firstChild.textContent = `Accept page: ${page.default}`;
    page.rows.forEach((_, i) => paint(i));
    select(Math.min(message.focus ?? 0, cells.length - 1));
    root.dataset.page = String(page.page);
  };
  const onMessage = (message, buffers) => {
    if (message.t === "page") build(message, buffers);
    else if (message.t === "state" && page) {
      page.rows.forEach((r, i) => {
        if ((pending.get(r.path) ?? 0) > message.seq || !(r.path in message.decisions)) return;
        pending.delete(r.path);
        if (r.decision !== message.decisions[r.path]) { r.decision = message.decisions[r.path]; paint(i); }
      });
      root.dataset.ack = String(message.seq);
      if (message.text) status.textContent = message.text;
    } else if (message.t === "reveal" && page && row()?.path === message.path && row().decision !== "escalate") {
      const img = cells[cur].querySelector("img");
      if (img) { img.src = url("sharp", buffers[0]); cells[cur].classList.add("nsfw-revealed"); paintSide(); }
    } else if (message.t === "problem") { waiting = false; status.textContent = message.text; }
  };
  const leave = (event) => { if (!root.contains(event.relatedTarget)) conceal(cur); };
  grid.addEventListener("focusout", leave);
  model.on("msg:custom", onMessage);
  el.append(root);
  send("open");
  return () => {
    [...urls.keys()].forEach(drop);
    model.off("msg:custom", onMessage);
  };
}
export default { render };
