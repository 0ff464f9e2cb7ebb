// One page of a review session. State lives in Python: this paints a decision at once and is corrected by the answer.
// Pixels come in messages, never in synced traits, so no saved widget state can hold one. Names are set as text only.

const ACTIONS = [
  ["keep", "k", "✓"],
  ["drop", "d", "✕"],
  ["unsure", "?", "?"],
  ["escalate", "e", "!"],
];
const KEEP = "keep"; // says nothing where no label is shown
const MARK = Object.fromEntries(ACTIONS.map(([name, , mark]) => [name, mark]));
const KEYS = [
  ["1 … 9", "give this class"], ["k", "keep the given label"], ["d", "drop from the data"], ["?", "unsure"],
  ["e", "escalate: hide at once, hand on"], ["space", "reveal, or hide again"], ["Enter", "accept the page"],
  ["u", "undo"], ["r", "redo"], ["n", "neighbours and near-duplicates"], ["← ↑ → ↓", "move"],
  ["PageUp, PageDown", "turn the page"], ["h", "this help"], ["Esc", "hide, close"],
];
// JupyterLab looks for shortcuts before the page gets the key, from the focused element upwards: it must bear this mark.
const KEEP_KEYS = ["data-lm-suppress-shortcuts", "true"];
const SHARP = Symbol("sharp"); // the revealed picture among those named by path, where a file may be called anything
const IDLE_SECONDS = 120; // longer than that, nobody was looking at one picture
const PATIENCE = 4000; // ms without an answer before we say that something is not saved

function make(tag, className = "", text = undefined) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function percent(p) {
  return `${(100 * Math.min(Math.max(p ?? 0, 0), 1)).toFixed(1)}%`;
}

// Object URLs by name (a path, SHARP, or a number in the strip); every one is revoked, so pixels leave the browser with the page.
function pictures() {
  const urls = new Map();
  const drop = (name) => {
    if (urls.has(name)) URL.revokeObjectURL(urls.get(name));
    urls.delete(name);
  };
  return {
    drop,
    get: (name) => urls.get(name),
    put(name, buffer) {
      drop(name);
      urls.set(name, URL.createObjectURL(new Blob([buffer], { type: "image/jpeg" })));
      return urls.get(name);
    },
    clear: () => [...urls.keys()].forEach(drop),
  };
}

function render({ model, el }) {
  const classes = model.get("classes"), blind = model.get("blind");
  const actions = ACTIONS.filter(([action]) => !blind || action !== KEEP);
  const shown = pictures();
  const id = `nsfw-${Math.random().toString(36).slice(2)}`;
  const sender = `${Date.now()}-${Math.random()}`; // with seq it tells Python in which order we sent
  const pending = new Map(); // path, or "" for the page -> [number of its last message, when]
  const later = []; // keys typed while an undo is on its way
  let page = null, cells = [], cur = 0, seq = 0, waiting = false, wanted = null, since = performance.now();

  // --- the parts ---
  const root = make("div", "nsfw-review");
  const head = make("div", "nsfw-head"), title = make("div", "nsfw-title"), facts = make("div", "nsfw-facts");
  const grid = make("div", "nsfw-grid"), side = make("div", "nsfw-side"), strip = make("div", "nsfw-strip");
  const foot = make("div", "nsfw-foot"), status = make("div", "nsfw-status"), help = make("div", "nsfw-help");
  const notice = make("div", "nsfw-notice"), pause = make("div", "nsfw-notice nsfw-pause");
  grid.tabIndex = 0;
  grid.setAttribute(...KEEP_KEYS);
  grid.setAttribute("role", "listbox");
  grid.setAttribute("aria-label", "Pictures of this page. Press h for the keys.");
  status.setAttribute("role", "status");
  status.setAttribute("aria-live", "polite");
  notice.setAttribute("role", "alert");
  pause.setAttribute("role", "alert");
  strip.setAttribute("aria-label", "Neighbours and near-duplicates");
  help.setAttribute("role", "dialog");
  help.setAttribute("aria-label", "Keys and guidelines");
  [help, strip, notice, pause].forEach((node) => (node.hidden = true));

  const button = (text, key, run, className = "") => {
    const node = make("button", `nsfw-button ${className}`);
    node.type = "button";
    node.setAttribute(...KEEP_KEYS);
    node.append(make("span", "nsfw-word", text), make("kbd", "", key));
    node.addEventListener("click", () => {
      run();
      grid.focus({ preventScroll: true });
    });
    return node;
  };

  // --- talking to Python ---
  const send = (op, more = {}) => {
    seq += 1;
    if (!["reveal", "details", "still"].includes(op)) root.dataset.pending = "?";
    try {
      model.send({ op, sender, seq, ...more });
    } catch (error) {
      alarm(`Not saved: ${error}. Run this cell again.`, "unsaved");
    }
    return seq;
  };
  const alarm = (text, kind = "") => {
    notice.hidden = !text;
    notice.textContent = text;
    notice.dataset.kind = kind;
  };
  const watch = setInterval(() => {
    const oldest = Math.min(...[...pending.values()].map(([, at]) => at));
    if (performance.now() - oldest > PATIENCE) {
      alarm(`${pending.size} not saved yet: the kernel does not answer. If it was restarted, run this cell again.`, "unsaved");
      send("still"); // Python holds what overtook a message; this lets it give up a lost one
    }
  }, 1000);
  const secondsSpent = () => {
    const spent = (performance.now() - since) / 1000;
    since = performance.now();
    return Math.round(Math.min(spent, IDLE_SECONDS) * 1000) / 1000;
  };

  // --- painting ---
  const row = () => page?.rows[cur];
  const isShown = (r) => !r.note && r.decision !== "escalate";
  const words = (r) => (r.decision ? `${MARK[r.decision] ?? "→"} ${r.decision}` : r.words[0]);

  const paint = (i) => {
    const r = page.rows[i], cell = cells[i];
    cell.dataset.decision = r.decision ? (MARK[r.decision] ? r.decision : "relabel") : "";
    cell.classList.toggle("nsfw-pending", pending.has(r.path));
    cell.querySelector(".nsfw-badge").textContent = words(r);
    cell.setAttribute("aria-label", [`Picture ${i + 1} of ${cells.length}, ${r.words[1]}`,
      r.decision || "undecided", r.note, r.remark].filter(Boolean).join(", "));
    if (r.decision === "escalate") {
      page.rows.forEach((other, j) => {
        if (other === r || other.group === r.group) hide(j);
      });
    }
    if (i === cur) paintSide();
  };
  const hide = (i, why = "escalated") => {
    if (i === cur) conceal();
    page.rows[i].note ||= why;
    shown.drop(page.rows[i].path);
    cells[i].querySelector(".nsfw-picture").replaceChildren(make("span", "nsfw-none", page.rows[i].note));
  };

  const paintSide = () => {
    const r = row();
    const source = r && (shown.get(SHARP) ?? shown.get(r.path));
    if (source) {
      const img = make("img");
      img.src = source;
      img.alt = "";
      large.replaceChildren(img);
    } else large.replaceChildren(make("span", "nsfw-none", r?.note || "not shown"));
    large.classList.toggle("nsfw-revealed", Boolean(r && shown.get(SHARP)));
    name.textContent = r ? r.name : "";
    name.title = r ? r.name : "";
    classButtons.forEach((node, i) => {
      node.style.setProperty("--p", percent(r?.probs?.[i]));
      node.lastChild.previousSibling.textContent = r?.probs ? r.probs[i].toFixed(2) : "";
      node.dataset.is = !r ? "" : classes[i] === r.given ? "given" : classes[i] === r.suggested ? "suggested" : "";
      node.setAttribute("aria-pressed", String(r?.decision === classes[i]));
    });
    actionButtons.forEach((node, i) => node.setAttribute("aria-pressed", String(r?.decision === actions[i][0])));
  };

  const section = () => page.sections[row()?.section];
  const members = () => page.rows.filter((r) => r.section === row()?.section);
  const paintHead = () => {
    const part = section();
    const open = members().filter((r) => !r.decision && isShown(r)).length;
    title.replaceChildren(...(part?.title ?? [["Nothing to review", true]]).map(([text, strong]) => make(strong ? "b" : "span", "", text)));
    facts.textContent = part?.facts ?? "";
    cells.forEach((cell, i) => cell.classList.toggle("nsfw-in", page.sections.length > 1 && page.rows[i].section === row()?.section));
    accept.disabled = !part;
    const what = part?.default === "keep" ? `keep ${open}` : `${open} as ${part?.default}`;
    accept.firstChild.textContent = blind ? "Go on" : open ? `Accept page: ${what}` : "Page done, go on";
  };

  const say = (text) => {
    status.textContent = text;
  };

  // --- moving and revealing ---
  const conceal = () => {
    wanted = null;
    if (!shown.get(SHARP)) return;
    shown.drop(SHARP);
    const cell = cells[cur], img = cell?.querySelector("img"), blurred = shown.get(row().path);
    cell?.classList.remove("nsfw-revealed");
    if (img && blurred) img.src = blurred;
    paintSide();
  };
  const select = (i) => {
    if (!page || i < 0 || i >= cells.length) return;
    if (i !== cur) {
      conceal();
      closeStrip();
    }
    cells[cur]?.setAttribute("aria-selected", "false");
    cur = i;
    cells[cur].setAttribute("aria-selected", "true");
    grid.setAttribute("aria-activedescendant", cells[cur].id);
    if (grid.contains(document.activeElement)) cells[cur].scrollIntoView({ block: "nearest" });
    paintSide();
    paintHead();
  };
  const reveal = () => {
    if (!row() || waiting) return;
    if (wanted === row().path) return conceal();
    if (!isShown(row())) return say("This picture is not shown.");
    wanted = row().path;
    send("reveal", { path: wanted });
  };
  const closeStrip = () => {
    strip.hidden = true;
    strip.replaceChildren();
    (strip.urls ?? []).forEach((name) => shown.drop(name));
  };
  const details = () => {
    if (!row() || waiting) return;
    if (!strip.hidden) return closeStrip();
    send("details", { path: row().path });
  };
  const columns = () => getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const toggleHelp = () => {
    help.hidden = !help.hidden;
  };

  // --- deciding ---
  const decide = (decision) => {
    if (!row() || waiting) return;
    const r = row(), i = cur;
    alarm("");
    r.decision = decision;
    pending.set(r.path, [send("decide", { path: r.path, decision, seconds: secondsSpent() }), performance.now()]);
    paint(i);
    paintHead();
    say(`Picture ${i + 1}: ${decision}`);
    if (i + 1 < cells.length) select(i + 1);
  };
  const acceptPage = () => {
    if (!row() || waiting) return;
    if (blind) return turn(1);
    conceal();
    const part = section(), rows = members(), last = page.rows.indexOf(rows.at(-1));
    const skip = rows.filter((r) => !isShown(r)).map((r) => r.path);
    const number = send("accept", { page: part.page, skip, seconds: secondsSpent() });
    page.rows.forEach((r, i) => {
      if (r.section !== row().section || r.decision || !isShown(r)) return;
      r.decision = part.default;
      pending.set(r.path, [number, performance.now()]);
      paint(i);
    });
    say(`Page accepted: ${part.default}`);
    if (last + 1 < cells.length) select(last + 1);
    else turn(1);
  };
  const turn = (step) => {
    if (!page || waiting) return;
    conceal();
    waiting = true;
    pending.set("", [send("go", { step }), performance.now()]);
  };
  const takeBack = (op) => {
    if (!page || waiting) return;
    conceal();
    waiting = "undo"; // what is typed next is meant for the picture that comes back
    pending.set("", [send(op), performance.now()]);
  };
  const goOn = () => {
    waiting = false;
    while (later.length && !waiting) later.shift()();
  };

  // --- keys ---
  const handlers = {
    ArrowRight: () => select(cur + 1), ArrowLeft: () => select(cur - 1),
    ArrowDown: () => select(cur + columns()), ArrowUp: () => select(cur - columns()),
    Home: () => select(0), End: () => select(cells.length - 1),
    PageDown: () => turn(1), PageUp: () => turn(-1),
    Enter: acceptPage, " ": reveal, n: details, u: () => takeBack("undo"), r: () => takeBack("redo"), h: toggleHelp,
    Escape: () => {
      help.hidden = true;
      closeStrip();
      conceal();
    },
  };
  actions.forEach(([action, key]) => (handlers[key] = () => decide(action)));
  const digit = (event) => {
    const typed = /^[1-9]$/.exec(event.key)?.[0] ?? (!event.shiftKey && /^Digit([1-9])$/.exec(event.code)?.[1]);
    return typed && classes[typed - 1] !== undefined ? () => decide(classes[typed - 1]) : undefined;
  };
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab") return;
    event.stopPropagation(); // no letter typed here may reach the notebook's own shortcuts
    if (event.target.closest("button") && (event.key === "Enter" || event.key === " ")) return;
    const handler = digit(event) ?? handlers[event.key];
    if (!handler) return;
    event.preventDefault();
    if (waiting === "undo") later.push(handler);
    else handler();
  });
  root.addEventListener("focusout", (event) => {
    if (!root.contains(event.relatedTarget)) conceal();
  });
  const onVisibility = () => {
    if (document.hidden) conceal();
    since = performance.now();
  };
  document.addEventListener("visibilitychange", onVisibility);

  // --- the side and the head ---
  const large = make("div", "nsfw-large"), name = make("div", "nsfw-name");
  large.addEventListener("click", () => {
    reveal();
    grid.focus({ preventScroll: true });
  });
  const classBox = make("div", "nsfw-classes"), actionBox = make("div", "nsfw-actions");
  const classButtons = classes.map((text, i) => {
    const node = button(text, i < 9 ? String(i + 1) : "", () => decide(text), "nsfw-class");
    node.insertBefore(make("span", "nsfw-number"), node.lastChild);
    classBox.append(node);
    return node;
  });
  const actionButtons = actions.map(([action, key]) => button(action, key, () => decide(action), `nsfw-${action}`));
  actionBox.append(...actionButtons, button("reveal", "space", reveal), button("neighbours", "n", details),
    button("undo", "u", () => takeBack("undo")), button("redo", "r", () => takeBack("redo")));
  const accept = button("Accept page", "Enter", acceptPage, "nsfw-primary");
  const turns = make("div", "nsfw-turns");
  turns.append(button("‹", "", () => turn(-1), "nsfw-turn"), button("›", "", () => turn(1), "nsfw-turn"), accept);
  turns.children[0].setAttribute("aria-label", "Previous page");
  turns.children[1].setAttribute("aria-label", "Next page");
  const titles = make("div");
  titles.append(title, facts);
  head.append(titles, turns);
  side.append(large, name, classBox, actionBox);
  foot.append(status, button("keys and guidelines", "h", toggleHelp, "nsfw-quiet"));
  const keyList = make("dl");
  const blindKeys = { k: "", Enter: "turn the page", n: "" }; // what these say where no label is shown
  KEYS.map(([key, meaning]) => [key, blind ? blindKeys[key] ?? meaning : meaning]).filter(([, meaning]) => meaning)
    .forEach(([key, meaning]) => keyList.append(make("dt", "", key), make("dd", "", meaning)));
  const guide = make("div", "nsfw-guide");
  guide.innerHTML = model.get("guidelines"); // rendered from Markdown in Python, raw HTML escaped there
  help.append(keyList, guide, button("close", "Esc", toggleHelp, "nsfw-quiet"));
  const body = make("div", "nsfw-body");
  body.append(grid, side);
  pause.append(make("span"), button("carry on", "", () => (pause.hidden = true), "nsfw-quiet"));
  root.append(pause, notice, head, body, strip, foot, help);

  // --- a page arrives ---
  const thumbnail = (key, buffer, note) => {
    const box = make("div", "nsfw-picture");
    if (buffer?.byteLength) {
      const img = make("img");
      img.src = shown.put(key, buffer);
      img.alt = "";
      img.draggable = false;
      box.append(img);
    } else box.append(make("span", "nsfw-none", note || "not shown"));
    return box;
  };
  const makeCell = (r, i, buffer) => {
    const cell = make("div", "nsfw-cell");
    cell.id = `${id}-${i}`;
    cell.setAttribute("role", "option");
    cell.setAttribute("aria-selected", "false");
    const odds = make("div", "nsfw-odds");
    if (r.suggested && r.p_given !== null) {
      odds.append(make("i", "nsfw-p-given"), make("i", "nsfw-p-suggested"));
      odds.children[0].style.width = percent(r.p_given);
      odds.children[1].style.width = percent(r.p_suggested);
      odds.title = `${r.given} ${r.p_given.toFixed(2)}, ${r.suggested} ${r.p_suggested.toFixed(2)}`;
    }
    const caption = make("div", "nsfw-caption");
    caption.append(make("span", "nsfw-badge"), make("span", "nsfw-remark", r.remark));
    cell.append(thumbnail(r.path, buffer, r.note), odds, caption);
    cell.addEventListener("click", () => {
      select(i);
      grid.focus({ preventScroll: true });
    });
    cell.addEventListener("dblclick", reveal);
    return cell;
  };
  const build = (message, buffers) => {
    shown.clear();
    closeStrip();
    pending.clear();
    alarm("");
    wanted = null;
    waiting &&= waiting === "undo" && "undo";
    since = performance.now();
    page = message;
    cells = page.rows.map((r, i) => makeCell(r, i, buffers[i]));
    grid.replaceChildren(...cells);
    grid.style.setProperty("--cell", cells.length > 12 ? "108px" : "148px");
    cur = 0;
    page.rows.forEach((_, i) => paint(i));
    if (cells.length) select(Math.min(message.focus, cells.length - 1));
    else paintHead();
    paintSide();
    root.dataset.page = String(page.page);
    if (!waiting) root.dataset.pending = "0";
  };

  // --- answers ---
  const settle = (message) => {
    if ((pending.get("")?.[0] ?? 0) <= message.seq) pending.delete("");
    page.rows.forEach((r, i) => {
      const [number] = pending.get(r.path) ?? [0];
      if (number > message.seq || !(r.path in message.decisions)) return; // a later key is still on its way
      const changed = pending.delete(r.path) || r.decision !== message.decisions[r.path];
      const why = message.notes[r.path], wasHidden = r.decision === "escalate" || r.hidden;
      r.decision = message.decisions[r.path];
      r.hidden = why;
      if (why) hide(i, why); // decided into a class that is not shown, or escalated by somebody else
      else if (wasHidden) send("open");
      if (changed) paint(i);
    });
    if (!pending.size && notice.dataset.kind === "unsaved") alarm("");
    if (message.text) say(message.text);
    paintHead();
    root.dataset.pending = String(pending.size);
    if (waiting === "undo") goOn();
  };
  const showSharp = (message, buffer) => {
    const img = cells[cur]?.querySelector("img");
    if (!img || wanted !== message.path || row().path !== message.path) return; // left already
    img.src = shown.put(SHARP, buffer);
    cells[cur].classList.add("nsfw-revealed");
    paintSide();
  };
  const showStrip = (message, buffers) => {
    if (row()?.path !== message.path) return;
    closeStrip();
    strip.urls = message.rows.map((_, i) => i);
    message.rows.forEach((r, i) => {
      const item = make("figure", "nsfw-item");
      item.append(thumbnail(i, buffers[i], r.note), make("figcaption", "", r.label), make("small", "", r.why));
      strip.append(item);
    });
    const nothing = blind ? "Not shown here: they would give the label away." : "No neighbours or near-duplicates known.";
    if (!message.rows.length) strip.append(make("span", "nsfw-none", nothing));
    strip.hidden = false;
  };
  const onMessage = (message, buffers) => {
    if (message.t === "page") build(message, buffers);
    else if (message.t === "problem") {
      waiting = false;
      alarm(message.text);
      later.length = 0;
    } else if (!page) return;
    else if (message.t === "state") settle(message);
    else if (message.t === "reveal") showSharp(message, buffers[0]);
    else if (message.t === "details") showStrip(message, buffers);
    else if (message.t === "break") {
      conceal();
      pause.hidden = false;
      pause.firstChild.textContent = message.text;
    }
  };
  model.on("msg:custom", onMessage);
  el.append(root);
  send("open");
  return () => {
    clearInterval(watch);
    shown.clear();
    document.removeEventListener("visibilitychange", onVisibility);
    model.off("msg:custom", onMessage);
  };
}

export default { render };
