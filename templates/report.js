"use strict";
// The page is complete without this script, which only sorts, filters and folds its boards.
(() => {
  // The number of columns beside the models on paper; the other columns follow below.
  const PRINTED = 14;
  const boards = [...document.querySelectorAll("table.board")].map((table) => ({
    table,
    frame: table.closest(".frame"),
    heads: [...table.tHead.rows[0].cells],
    lines: [...table.tBodies[0].rows].map((row, place) => ({ row, place, cells: [...row.cells] })),
    open: new Set(),
  }));

  const valueOf = (cell) => (cell.dataset.v === undefined ? NaN : Number(cell.dataset.v));

  function sort(board, column) {
    const head = board.heads[column];
    const first = head.dataset.first;
    const other = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    for (const each of board.heads) each.setAttribute("aria-sort", each === head ? order : "none");
    const sign = order === "ascending" ? 1 : -1;
    const keys = new Map(board.lines.map((line) => [line, column ? valueOf(line.cells[column]) : line.place]));
    const sorted = [...board.lines].sort((a, b) => {
      const [x, y] = [keys.get(a), keys.get(b)];
      // Lines without a value stay at the end.
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a.place - b.place;
      return sign * (x - y) || a.place - b.place;
    });
    board.table.tBodies[0].append(...sorted.map((line) => line.row));
  }

  // A name matches if all words occur in it, in any order.
  function matches(name, words) {
    const text = name.toLowerCase();
    return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  }

  function filter(board, models, tasks) {
    let group = 0;
    board.heads.forEach((head, column) => {
      if (head.dataset.name === undefined) return;
      const isMember = head.classList.contains("member");
      if (!isMember) group = column;
      const isFolded = isMember && !tasks && !board.open.has(group);
      const isHidden = isFolded || !matches(head.dataset.name, tasks);
      if (head.hidden === isHidden) return;
      head.hidden = isHidden;
      for (const line of board.lines) line.cells[column].hidden = isHidden;
    });
    for (const line of board.lines) line.row.hidden = !matches(line.row.dataset.name, models);
    return board.lines.filter((line) => !line.row.hidden).length;
  }

  const field = (id) => document.getElementById(id);
  function filterAll() {
    const models = field("models")?.value.trim() ?? "";
    const tasks = field("tasks")?.value.trim() ?? "";
    for (const board of boards) {
      const shown = filter(board, models, tasks);
      const isWhole = shown === board.lines.length;
      board.frame.nextElementSibling.textContent = isWhole
        ? "" : `${shown} of ${board.lines.length} models shown`;
    }
  }

  for (const board of boards) {
    board.heads.forEach((head, column) => {
      head.querySelector(".sort").addEventListener("click", () => sort(board, column));
      head.querySelector(".fold")?.addEventListener("click", (event) => {
        const isOpen = board.open.delete(column) ? false : Boolean(board.open.add(column));
        event.currentTarget.setAttribute("aria-expanded", String(isOpen));
        filterAll();
      });
    });
  }
  for (const id of ["models", "tasks"]) field(id)?.addEventListener("input", filterAll);
  field("stderrs")?.addEventListener("change", (event) => {
    document.body.classList.toggle("stderrs", event.target.checked);
  });
  // Marks the edges of a frame beyond which its board goes on.
  function cue({ frame }) {
    const view = frame.firstElementChild;
    frame.classList.toggle("more-right", view.scrollLeft + view.clientWidth < view.scrollWidth - 1);
    frame.classList.toggle("more-below", view.scrollTop + view.clientHeight < view.scrollHeight - 1);
  }
  for (const board of boards) {
    const watch = new ResizeObserver(() => cue(board));
    watch.observe(board.table);
    watch.observe(board.frame);
    board.frame.firstElementChild.addEventListener("scroll", () => cue(board), { passive: true });
  }

  for (const each of document.querySelectorAll(".controls")) each.hidden = false;
  filterAll();

  // Splits a board that is too wide for paper into tables below each other, each with the models.
  function split(board) {
    const places = board.heads.map((_, column) => column).filter((column) => !board.heads[column].hidden);
    if (places.length - 1 <= PRINTED) return;
    const rows = [board.table.tHead.rows[0], ...board.table.tBodies[0].rows].filter((row) => !row.hidden);
    const parts = document.createElement("div");
    parts.className = "prints";
    for (let begin = 1; begin < places.length; begin += PRINTED) {
      const columns = [0, ...places.slice(begin, begin + PRINTED)];
      const table = board.table.cloneNode(false);
      const [head, body] = [table.createTHead(), table.createTBody()];
      rows.forEach((row, place) => {
        const copy = row.cloneNode(false);
        copy.append(...columns.map((column) => row.cells[column].cloneNode(true)));
        (place ? body : head).append(copy);
      });
      parts.append(table);
    }
    const view = board.frame.firstElementChild;
    view.classList.add("parted");
    view.append(parts);
  }
  addEventListener("beforeprint", () => boards.forEach(split));
  addEventListener("afterprint", () => {
    for (const view of document.querySelectorAll(".parted")) {
      view.classList.remove("parted");
      view.querySelector(".prints").remove();
    }
  });
})();
