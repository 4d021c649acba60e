"use strict";
/* The drawing of a trace. From left to right is the order in which things happened,
   step by step; from top to bottom are pages of buffers, one lane for each address
   space and buffer, and below them the subscriptions of the driver. */
window.drawTimeline = (() => {
  const NS = "http://www.w3.org/2000/svg";
  const HEAD = 78, BRACKET = 20, LANE = 112, THIN = 20, DEVICE = 30, GAP = 10;
  const COLUMN = 16, BAR = 22, STEP = 116, EMPTY = 20;
  const EVENTS = ["MIGRATE", "CLEAR", "UNMAP", "PROTECTION_VMA", "PROTECTION_PAGE", "EXCLUSIVE", "RELEASE", "SOFT_DIRTY"];

  const el = (name, attributes, ...children) => {
    const node = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const html = (name, cls, ...children) => {
    const node = document.createElement(name);
    if (cls) node.className = cls;
    node.append(...children);
    return node;
  };
  const many = (item) => item.count !== undefined;
  const seconds = (ns) => (ns === undefined ? "" : `${(ns / 1e9).toFixed(3)} s`);
  const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}\u2026` : text);

  /* Which lanes there are, and how many pages each has. */
  function lanesOf(steps) {
    const buffers = new Map(), devices = new Set(), spaces = new Map();
    const pages = (name, to) => buffers.set(name, Math.max(buffers.get(name) || 1, to));
    const space = (mm) => {
      if (!spaces.has(mm)) spaces.set(mm, { buffers: new Set(), other: false });
      return spaces.get(mm);
    };
    const walk = (item) => {
      if (many(item)) {
        item.ways.forEach((way) => { if (way.last && way.last.pages) pages(way.last.pages[0], way.last.pages[2]); });
        item.unit.forEach(walk);
        return;
      }
      if (item.at && item.at.pages) pages(item.at.pages[0], item.at.pages[2]);
      if (onDevice(item)) devices.add(device(item));
      else if (item.at && item.at.pages) space(mmOf(item)).buffers.add(item.at.pages[0]);
      else space(mmOf(item)).other = true;
      (item.inside || []).forEach(walk);
    };
    for (const step of steps) {
      const doing = step.doing || {};
      if (doing.pages) pages(doing.pages.buffer, doing.pages.first + doing.pages.pages);
      (step.items || []).forEach((happened) => walk(happened.item));
    }
    const lanes = [];
    let y = HEAD + BRACKET;
    const add = (key, label, height, to) => {
      lanes.push({ key, label, y, height, pages: to });
      y += height + GAP;
    };
    for (const [mm, has] of [...spaces].sort(([a], [b]) => a.localeCompare(b))) {
      for (const buffer of has.buffers) add(`${mm} ${buffer}`, `${mm} ${buffer}`, LANE, buffers.get(buffer));
      if (has.other) add(`${mm} `, `${mm} other`, THIN, 0);
    }
    for (const name of [...devices].sort()) add(name, name, DEVICE, 0);
    return { lanes, height: y };
  }

  const onDevice = (event) => ["callback", "insert", "remove"].includes(event.kind);
  const device = (event) => (event.lane || "unknown").split(".")[0];
  const mmOf = (event) => event.lane || "mm?";
  const name = (event) => event.what.split(" ")[0];
  const cls = (event) => (EVENTS.includes(name(event)) ? `e-${name(event)}` : "e-other");

  /* Where an event is: from, to; and of a run, from the first time to the last. */
  function reach(event, way, outer) {
    if (!event.at || !event.at.pages) return null;
    const [buffer, from, to] = event.at.pages;
    const place = { buffer, from, to, spread: "same", last: to };
    const moves = way || outer;
    if (!moves || moves.spread === "same") return place;
    place.spread = moves.spread;
    if (way && way.last && way.last.pages) {
      place.lastFrom = way.last.pages[1];
      place.last = way.last.pages[2];
    } else if (outer) {
      place.lastFrom = from + outer.shift;
      place.last = to + outer.shift;
    }
    return place;
  }

  class Drawing {
    constructor(data) {
      this.data = data;
      const { lanes, height } = lanesOf(data.steps);
      this.lanes = lanes;
      this.height = height;
      this.byKey = new Map(lanes.map((lane) => [lane.key, lane]));
      this.events = new Set();
      this.kinds = new Set();
      this.bars = 0;
    }

    width(item) {
      if (many(item)) return item.unit.reduce((sum, one) => sum + this.width(one), 0) + 16;
      if (item.kind !== "invalidation") return COLUMN;
      const inside = (item.inside || []).reduce((sum, one) => sum + this.width(one), 0);
      return BAR + inside + 6;
    }

    /* Draws an item at x, and says how wide it is. */
    item(g, item, x, way, outer, count) {
      const width = this.width(item);
      if (many(item)) {
        const y = HEAD + BRACKET - 8;
        const text = `\u00d7${item.count}`;
        // Of a run in a run, the outer one is told.
        if (!outer && (count || 1) === 1) {
          g.append(el("path", { class: "bracket", d: `M${x + 2},${y + 4}v-4h${width - 4}v4` }));
          g.append(el("text", { class: "times", x: x + width / 2, y: y - 4, "text-anchor": "middle" }, text));
        }
        let at = x + 8;
        item.unit.forEach((one, n) => {
          const own = item.ways[n];
          const moves = own && own.spread !== "same" ? own : way;
          at += this.item(g, one, at, moves, outer, item.count);
        });
        return width;
      }
      if (onDevice(item)) this.mark(g, item, x + COLUMN / 2);
      else if (item.kind === "invalidation") this.invalidation(g, item, x, width, way, outer, count);
      else this.small(g, item, x + COLUMN / 2, way, outer);
      return width;
    }

    lane(event) {
      const buffer = event.at && event.at.pages ? event.at.pages[0] : "";
      return this.byKey.get(`${mmOf(event)} ${buffer}`);
    }

    span(lane, from, to) {
      if (!lane.pages) return [lane.y + 3, lane.height - 6];
      const at = (page) => lane.y + (Math.min(Math.max(page, 0), lane.pages) / lane.pages) * lane.height;
      const height = Math.max(at(to) - at(from), 3);
      return [Math.min(at(from), lane.y + lane.height - height), height];
    }

    /* A bar, or the stairs that a run makes. */
    bar(g, lane, place, x, width, attributes) {
      const put = (from, to, left, wide) => {
        const [y, height] = this.span(lane, from, to);
        g.append(el("rect", { ...attributes, x: left, y, width: Math.max(wide, 2), height }));
        return y + height;
      };
      if (!place) return put(0, lane.pages, x, width);
      if (place.spread === "continues" && place.last !== place.to) {
        const [y, height] = this.span(lane, place.from, place.last);
        g.append(el("rect", { class: "reach", x, y, width, height }));
        const pages = place.to - place.from || 1;
        const stairs = Math.min(Math.max(Math.round((place.last - place.from) / pages), 2), 8);
        const one = (place.last - place.from) / stairs;
        for (let n = 0; n < stairs; n += 1) {
          put(place.from + n * one, place.from + (n + 1) * one, x + (n * width) / stairs, width / stairs);
        }
        return y + height;
      }
      if (place.spread === "scattered") {
        const low = put(place.from, place.to, x, width / 3);
        const end = put(place.lastFrom ?? place.from, place.last, x + (width * 2) / 3, width / 3);
        const mid = (a, b) => { const [y, h] = this.span(lane, a, b); return y + h / 2; };
        g.append(el("path", {
          class: "scatter",
          d: `M${x + width / 3},${mid(place.from, place.to)}L${x + (width * 2) / 3},${mid(place.lastFrom ?? place.from, place.last)}`,
        }));
        return Math.max(low, end);
      }
      return put(place.from, place.to, x, width);
    }

    invalidation(g, event, x, width, way, outer, count) {
      const place = reach(event, way, outer);
      const everything = event.at === "everything";
      const own = this.lane(event);
      const lanes = everything ? this.lanes.filter((lane) => lane.key.startsWith(`${mmOf(event)} `)) : [own];
      let bottom = 0;
      for (const lane of lanes.filter(Boolean)) {
        const shape = { class: `bar ${cls(event)}${event.broken ? " broken" : ""}` };
        bottom = Math.max(bottom, this.bar(g, lane, place, x + 1, width - 2, shape));
        this.bars += 1;
      }
      this.events.add(EVENTS.includes(name(event)) ? name(event) : "other");
      if (own && own.height === LANE) {
        const owner = (event.about || "").replace(/ by \w+/, "").replace("owner NULL", "no owner").replace("owner ", "").replace(", goes on", " \u2026");
        const label = short(`${event.broken ? "! " : ""}${event.what}${owner}`, 18);
        const at = `rotate(-90 ${x + 14} ${own.y + own.height - 3})`;
        g.append(el("text", { class: "label", x: x + 14, y: own.y + own.height - 3, transform: at }, label));
      }
      let moved = outer;
      if (way && way.spread !== "same" && way.last && way.last.pages && event.at && event.at.pages) {
        moved = { spread: way.spread, shift: way.last.pages[1] - event.at.pages[1] };
      }
      let at = x + BAR;
      for (const inner of event.inside || []) {
        if (!many(inner) && onDevice(inner)) {
          const lane = this.byKey.get(device(inner));
          g.append(el("path", { class: "link", d: `M${at + COLUMN / 2},${bottom}V${lane.y + DEVICE / 2}` }));
        }
        at += this.item(g, inner, at, null, moved, count);
      }
    }

    /* Callbacks, and subscriptions that come and go. */
    mark(g, event, x) {
      const lane = this.byKey.get(device(event));
      const y = lane.y + DEVICE / 2;
      this.kinds.add(event.kind);
      const odd = event.what.includes(" -> ");
      if (event.kind === "callback") {
        const names = `callback${odd ? " odd" : ""}${event.broken ? " broken" : ""}`;
        g.append(el("circle", { class: names, cx: x, cy: y, r: 4 }));
        if (odd) {
          const said = event.what.split(" -> ")[1];
          g.append(el("text", { class: "times", x, y: y - 7, "text-anchor": "middle" }, said));
        }
      } else {
        const d = event.kind === "insert" ? `M${x - 4},${y}h8M${x},${y - 4}v8` : `M${x - 4},${y}h8`;
        g.append(el("path", { class: event.kind, d }));
      }
    }

    small(g, event, x, way, outer) {
      const place = reach(event, way, outer);
      const lane = this.lane(event);
      if (!lane) return;
      this.kinds.add(event.kind);
      const width = event.kind === "setup" ? 8 : 5;
      const shape = { class: `${event.kind}${event.broken ? " broken" : ""}` };
      if (event.kind === "release") {
        for (const one of this.lanes.filter((lane) => lane.key.startsWith(`${mmOf(event)} `))) {
          g.append(el("path", { class: "release", d: `M${x},${one.y}v${one.height}` }));
        }
        return;
      }
      this.bar(g, lane, place, x - width / 2, width, shape);
    }

    step(g, step, n, x) {
      const items = step.items || [];
      const things = items.reduce((sum, happened) => sum + this.width(happened.item) + 4, 0);
      const empty = !items.length && !step.broken && !step.more;
      const width = empty ? EMPTY : Math.max(STEP, things + 14);
      const doing = step.doing || {};
      const band = el("rect", {
        class: `step${n % 2 ? " even" : ""}${step.broken ? " broken" : ""}`,
        x, y: 0, width, height: this.height,
      });
      g.append(band);
      if (doing.pages && !/ by \w+$/.test(step.text)) {
        const lane = this.byKey.get(`mm0 ${doing.pages.buffer}`);
        if (lane) {
          const [y, height] = this.span(lane, doing.pages.first, doing.pages.first + doing.pages.pages);
          g.append(el("rect", { class: "about", x: x + 1, y, width: 2, height }));
        }
      }
      const head = el("g", { class: "mark head", tabindex: "-1", role: "img" });
      const broken = (step.broken || []).map((text) => `\n! ${text}`).join("");
      const nothing = empty ? "\nno event of a buffer" : "";
      this.tell(head, `step ${step.number}: ${step.text}${step.ns === undefined ? "" : `, at ${seconds(step.ns)}`}${broken}${nothing}`);
      head.append(el("rect", { class: "hit", x, y: 0, width, height: empty ? this.height : HEAD }));
      const text = (content, y, name_) => head.append(el("text", { class: name_, x: x + 6, y }, content));
      if (empty) {
        const at = `rotate(90 ${x + 6} 20)`;
        head.append(el("text", { class: "quiet", x: x + 6, y: 20, transform: at }, short(step.text, Math.floor((this.height - 26) / 6))));
        head.append(el("text", { class: "number", x: x + 3, y: 13 }, String(step.number)));
      } else {
        const most = Math.floor((width - 10) / 6.4);
        text(`${step.number}  ${seconds(step.ns)}`, 13, "number");
        text(`${step.broken ? "! " : ""}${short(doing.op || step.text, most)}`, 30, "op");
        const by = (/ by (\w+)$/.exec(step.text) || [])[1];
        const span = doing.pages && `${doing.pages.buffer}[${doing.pages.first}..${doing.pages.first + doing.pages.pages})`;
        [[doing.device, by && `by ${by}`], [span], [doing.note]]
          .map((words) => words.filter(Boolean).join(" "))
          .filter(Boolean)
          .forEach((line, n) => text(short(line, most), 44 + 13 * n, "what"));
      }
      g.append(head);
      let at = x + 8;
      for (const happened of items) {
        const wide = this.width(happened.item);
        const mark = el("g", { class: "mark", tabindex: "-1", role: "img" });
        this.tell(mark, happened.text);
        this.item(mark, happened.item, at, null, null, 1);
        mark.append(el("rect", { class: "hit", x: at - 2, y: HEAD, width: wide + 4, height: this.height - HEAD }));
        g.append(mark);
        at += wide + 4;
      }
      if (step.more) g.append(el("text", { class: "times", x: x + 6, y: HEAD - 2 }, `and ${step.more} more`));
      return width;
    }

    tell(mark, text) {
      mark.setAttribute("aria-label", text);
      mark.told = text;
    }
  }

  function legend(drawing) {
    const list = html("ul", "legend");
    const add = (shape, text) => {
      const svg = el("svg", { width: 16, height: 14, "aria-hidden": "true" });
      svg.append(shape);
      list.append(html("li", "", svg, text));
    };
    for (const event of [...EVENTS, "other"].filter((event) => drawing.events.has(event))) {
      add(el("rect", { class: `bar e-${event}`, x: 2, y: 1, width: 11, height: 12 }), event === "other" ? "another event" : event);
    }
    add(el("rect", { class: "about", x: 7, y: 1, width: 2, height: 12 }), "pages that the step is about");
    const kinds = {
      setup: [el("rect", { class: "setup", x: 4, y: 1, width: 8, height: 12 }), "migrate_vma_setup()"],
      collect: [el("rect", { class: "collect", x: 5, y: 1, width: 5, height: 12 }), "pages collected"],
      fault: [el("rect", { class: "fault", x: 5, y: 3, width: 5, height: 8 }), "CPU faults on a device page"],
      callback: [el("circle", { class: "callback", cx: 8, cy: 7, r: 4 }), "callback; a ring with a number: what it returned, if not true"],
      insert: [el("path", { class: "insert", d: "M4,7h8M8,3v8" }), "subscription comes"],
      remove: [el("path", { class: "remove", d: "M4,7h8" }), "subscription goes"],
      release: [el("path", { class: "release", d: "M8,1v12" }), "address space goes"],
    };
    for (const [kind, [shape, text]] of Object.entries(kinds)) {
      if (drawing.kinds.has(kind)) add(shape, text);
    }
    return list;
  }

  function labels(drawing) {
    const svg = el("svg", { class: "lanes", width: 104, height: drawing.height, "aria-hidden": "true" });
    svg.append(el("text", { class: "number", x: 98, y: 13, "text-anchor": "end" }, "step, at"));
    for (const { label, y, height, pages } of drawing.lanes) {
      const middle = pages ? y + height / 2 : y + height / 2 + 4;
      const [first, ...rest] = label.split(" ");
      const words = [first, rest.join(" ")].filter(Boolean);
      words.forEach((word, n) => {
        const at = height > 40 ? middle + n * 13 - 2 : middle;
        const text = height > 40 ? word : n === 0 ? short(label, 17) : "";
        if (text) svg.append(el("text", { class: n || height <= 40 ? "what" : "op", x: 98, y: at, "text-anchor": "end" }, short(text, 17)));
      });
      if (pages) {
        svg.append(el("text", { class: "number", x: 98, y: y + 9, "text-anchor": "end" }, "page 0"));
        svg.append(el("text", { class: "number", x: 98, y: y + height, "text-anchor": "end" }, String(pages)));
      }
    }
    return svg;
  }

  /* Arrow keys go from mark to mark; what is under the pointer or has the focus is
     told below. */
  function listen(scroll, marks, pane) {
    let at = 0;
    const show = (mark) => {
      marks.forEach((other) => other.classList.toggle("sel", other === mark));
      pane.textContent = mark.told;
    };
    const go = (to) => {
      marks[at].setAttribute("tabindex", "-1");
      at = Math.min(Math.max(to, 0), marks.length - 1);
      marks[at].setAttribute("tabindex", "0");
      marks[at].focus({ preventScroll: true });
      const box = marks[at].getBoundingClientRect(), frame = scroll.getBoundingClientRect();
      if (box.left < frame.left) scroll.scrollLeft -= frame.left - box.left + 20;
      if (box.right > frame.right) scroll.scrollLeft += box.right - frame.right + 20;
    };
    // What is wrong is looked at first.
    at = Math.max(marks.findIndex((mark) => mark.told.includes("\n! ")), 0);
    marks[at].setAttribute("tabindex", "0");
    if (at > 0) {
      show(marks[at]);
      scroll.scrollLeft = marks[at].getBoundingClientRect().left - scroll.getBoundingClientRect().left - 60;
    }
    marks.forEach((mark, n) => {
      mark.addEventListener("focus", () => show(mark));
      mark.addEventListener("pointerenter", () => show(mark));
      mark.addEventListener("click", () => go(n));
    });
    const keys = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    scroll.addEventListener("keydown", (event) => {
      const by = keys[event.key];
      if (by === undefined || !event.target.closest(".mark")) return;
      event.preventDefault();
      go(at + by);
    });
  }

  return (host, data) => {
    if (!data.steps.length) {
      host.append(html("p", "dim", "There is nothing in it."));
      return;
    }
    const drawing = new Drawing(data);
    const body = el("g");
    let x = 0;
    data.steps.forEach((step, n) => { x += drawing.step(body, step, n, x); });
    const svg = el("svg", {
      class: "drawing", width: x, height: drawing.height, role: "group",
      "aria-label": `${data.steps.length} steps; the arrow keys go through them`,
      "data-bars": drawing.bars,
    });
    svg.append(body);
    for (const lane of drawing.lanes) {
      svg.append(el("rect", { class: "lane", x: 0, y: lane.y, width: x, height: lane.height }));
    }
    const scroll = html("div", "scroll", svg);
    const pane = html("pre", "pane", "Point at something, or go there with the arrow keys.");
    pane.setAttribute("aria-live", "polite");
    const order = "From left to right is order, not time: only steps have a time. From top to bottom are pages. \u00d7N is what came N times.";
    host.append(html("div", "frame", labels(drawing), scroll), pane, legend(drawing), html("p", "dim", order));
    listen(scroll, [...svg.querySelectorAll(".mark")], pane);
  };
})();
