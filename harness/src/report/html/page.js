/* The table: what is open, what is shown, and in which order. The address says it,
   so that a link can. */
(() => {
  const form = document.querySelector(".filters");
  if (!form) return;
  const table = document.querySelector(".tests table");
  const tests = [...table.querySelectorAll("tbody.test")];
  const heads = [...table.querySelectorAll("th button[data-sort]")];
  const count = form.querySelector(".count");
  const none = document.querySelector(".none");
  const order = new Map(tests.map((test, n) => [test, n]));
  let sorted = "";

  const button = (test) => test.querySelector("button.open");
  const words = new Map(tests.map((test) => {
    const reason = test.querySelector(".detail > .reason");
    const said = [...test.querySelectorAll(".complaint b, .rules li")];
    const parts = [test.querySelector(".row"), reason, ...said].filter(Boolean);
    return [test, parts.map((part) => part.textContent).join(" ").toLowerCase()];
  }));

  function open(test, yes) {
    test.classList.toggle("opened", yes);
    button(test).setAttribute("aria-expanded", String(yes));
    if (yes) draw(test);
  }

  function draw(test) {
    const host = test.querySelector(".timeline");
    const data = test.querySelector('script[type="application/json"]');
    if (!host || !data || host.firstChild) return;
    window.drawTimeline(host, JSON.parse(data.textContent));
  }

  function wanted() {
    const text = form.elements.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const verdict = form.elements.verdict.value;
    const device = form.elements.device.value;
    const red = form.elements.red.checked;
    return (test) =>
      (!verdict || test.dataset.verdict === verdict) &&
      (!device || test.dataset.device === device) &&
      (!red || test.classList.contains("bad")) &&
      text.every((word) => words.get(test).includes(word));
  }

  function filter() {
    const is = wanted();
    let shown = 0;
    for (const test of tests) {
      test.hidden = !is(test);
      if (!test.hidden) shown += 1;
    }
    count.textContent = shown === tests.length ? `${shown} tests` : `${shown} of ${tests.length} tests`;
    none.hidden = shown > 0;
  }

  const numbers = new Set(["ms", "events"]);
  function key(test, column) {
    if (numbers.has(column)) return Number(test.dataset[column]);
    const at = heads.findIndex((head) => head.dataset.sort === column);
    return test.rows[0].cells[at].textContent.trim();
  }

  function sort() {
    const down = sorted.startsWith("-");
    const column = sorted.replace("-", "");
    const known = heads.some((head) => head.dataset.sort === column);
    if (!known) sorted = "";
    const rows = [...tests].sort((a, b) => {
      let by = 0;
      if (known) {
        const [x, y] = [key(a, column), key(b, column)];
        by = typeof x === "number" ? x - y : x.localeCompare(y);
      }
      return (down ? -by : by) || order.get(a) - order.get(b);
    });
    table.append(...rows);
    for (const head of heads) {
      const is = known && head.dataset.sort === column;
      if (is) head.parentNode.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.parentNode.removeAttribute("aria-sort");
    }
  }

  /* The address: `#ID` for a test, or `#test=ID&filter=words&verdict=failed`. */
  let current = "";
  function write() {
    const state = new URLSearchParams();
    if (current) state.set("test", current);
    for (const name of ["filter", "verdict", "device"]) {
      if (form.elements[name].value) state.set(name, form.elements[name].value);
    }
    if (form.elements.red.checked) state.set("red", "1");
    if (sorted) state.set("sort", sorted);
    const text = String(state);
    const alone = current && [...state.keys()].length === 1;
    history.replaceState(null, "", alone ? `#${current}` : text ? `#${text}` : location.pathname + location.search);
  }

  function read() {
    let text = location.hash.slice(1);
    try {
      text = decodeURIComponent(text);
    } catch {
      /* It is no encoding, and stands for itself. */
    }
    const plain = tests.some((test) => test.id === text);
    if (text && !plain && !text.includes("=")) return;
    const state = new URLSearchParams(plain ? "" : location.hash.slice(1));
    form.elements.filter.value = state.get("filter") || "";
    for (const name of ["verdict", "device"]) {
      form.elements[name].value = state.get(name) || "";
      if (form.elements[name].selectedIndex < 0) form.elements[name].value = "";
    }
    form.elements.red.checked = state.get("red") === "1";
    sorted = state.get("sort") || "";
    sort();
    filter();
    current = plain ? text : state.get("test") || "";
    const test = tests.find((test) => test.id === current);
    if (!test) {
      current = "";
      return;
    }
    test.hidden = false;
    open(test, true);
    test.scrollIntoView({ block: "start" });
  }

  form.addEventListener("input", () => { filter(); write(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { filter(); write(); }));
  for (const head of heads) {
    head.addEventListener("click", () => {
      const column = head.dataset.sort;
      sorted = sorted === column ? `-${column}` : sorted === `-${column}` ? "" : column;
      sort();
      write();
    });
  }
  table.addEventListener("click", (event) => {
    const row = event.target.closest("tr.row");
    if (!row || String(getSelection())) return;
    const test = row.parentNode;
    const yes = !test.classList.contains("opened");
    open(test, yes);
    current = yes ? test.id : "";
    write();
  });
  window.addEventListener("hashchange", read);
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    // It says nothing new, and there is no other news of it.
    if (link && link.getAttribute("href") === location.hash) read();
  });

  function move(by) {
    const shown = [...table.querySelectorAll("tbody.test")].filter((test) => !test.hidden);
    const at = shown.findIndex((test) => test.contains(document.activeElement));
    const next = shown[at < 0 ? (by > 0 ? 0 : shown.length - 1) : at + by];
    if (next) {
      button(next).focus();
      button(next).scrollIntoView({ block: "nearest" });
    }
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "Escape") {
      form.reset();
      if (typing) event.target.blur();
    } else if (typing) {
      return;
    } else if (event.key === "/") {
      event.preventDefault();
      form.elements.filter.focus();
      form.elements.filter.select();
    } else if (event.key === "j" || event.key === "k") {
      move(event.key === "j" ? 1 : -1);
    }
  });

  /* On paper, all about what is not as it should be. */
  window.addEventListener("beforeprint", () => {
    for (const test of tests.filter((test) => test.classList.contains("bad"))) {
      open(test, true);
      test.querySelectorAll("details").forEach((details) => { details.open = true; });
    }
  });

  read();
  filter();
})();
