"use strict";
(() => {
  const MOST_STRUCTURES = 8; // browsers keep few WebGL contexts
  const NARROW = 420; // pixels: a phone
  const PRINTED = [330, 670]; // pixels: charts beside each other, and alone, on a sheet
  const TURN = Math.PI / 12;
  const BUTTONS = {
    2: ["toImage", "zoom2d", "pan2d", "resetScale2d"],
    3: ["toImage", "orbitRotation", "pan3d", "resetCameraDefault3d"],
  };
  const find = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const table = find("#table");
  const rows = table ? [...table.tBodies[0].rows] : [];
  const structures = []; // rows whose structure is drawn, the oldest first

  const trouble = (words) => {
    find("#trouble").textContent = words;
    find("#trouble").hidden = false;
  };

  const unpacked = (async () => {
    const text = find("#payload").textContent.trim();
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  })();
  unpacked.catch((error) =>
    trouble(`Charts and details cannot be shown (${error.message}): use a browser of 2023 or newer.`));

  // charts

  const draw = (place, figure, look) => {
    const layout = { ...figure.layout, template: look };
    if (place.clientWidth < NARROW) layout.legend = { ...layout.legend, font: { size: 10 } };
    const dimensions = "scene" in layout ? 3 : 2;
    const name = document.title.replace(/[^\w-]+/g, "-") + "-" + place.dataset.chart;
    return Plotly.newPlot(place, figure.data, layout, {
      displaylogo: false,
      responsive: true,
      modeBarButtons: [BUTTONS[dimensions]],
      toImageButtonOptions: { format: dimensions === 3 ? "png" : "svg", filename: name },
    });
  };

  const drawRun = async () => {
    const { run, look } = await unpacked;
    for (const place of all("main > section [data-chart]")) {
      const chart = place.dataset.chart;
      if (!(chart in run)) continue;
      await draw(place, run[chart], look);
      if (chart === "hull") place.on("plotly_click", ({ points }) => openMaterial(points[0].id));
      if (chart === "elements") place.on("plotly_click", ({ points }) => {
        const [{ data, pointNumber: [row, column] }] = points;
        showElement(data.text[row][column].split("<")[0]);
      });
    }
  };

  // materials

  const detailOf = (row) => {
    const next = row.nextElementSibling;
    return next && next.classList.contains("detail") ? next : null;
  };

  const close = (row) => {
    const detail = detailOf(row);
    if (!detail) return;
    all(".js-plotly-plot", detail).forEach((place) => Plotly.purge(place));
    detail.remove();
    row.classList.remove("chosen");
    const button = find(".open", row);
    button.setAttribute("aria-expanded", "false");
    button.removeAttribute("aria-controls");
    if (structures.includes(row)) structures.splice(structures.indexOf(row), 1);
  };

  const forgetOldest = () => {
    const place = find("[data-chart=structure]", detailOf(structures.shift()));
    Plotly.purge(place);
    place.textContent = "Too many structures are open: close and open this one again to see it.";
  };

  const open = async (row) => {
    if (detailOf(row)) return;
    const detail = document.createElement("tr");
    detail.className = "detail";
    detail.id = `${row.id}-detail`;
    const cell = detail.insertCell();
    cell.colSpan = row.cells.length;
    cell.textContent = "One moment.";
    row.after(detail);
    row.classList.add("chosen");
    const button = find(".open", row);
    button.setAttribute("aria-expanded", "true");
    button.setAttribute("aria-controls", detail.id);
    const { materials, look } = await unpacked;
    const { html, charts } = materials[Number(row.id.slice(1))];
    cell.innerHTML = html; // written by the program, which has escaped what is not its own
    fit();
    for (const place of all("[data-chart]", cell)) {
      const chart = place.dataset.chart;
      if (!detail.isConnected || !(chart in charts)) continue;
      await draw(place, charts[chart], look);
      if (chart !== "structure") continue;
      place.home = structuredClone(charts[chart].layout.scene.camera);
      structures.push(row);
      if (structures.length > MOST_STRUCTURES) forgetOldest();
    }
  };

  const openMaterial = async (id) => {
    const row = rows.find((each) => each.dataset.id === id || each.id === id);
    if (!row) return;
    if (row.hidden) clearFilters();
    await open(row);
    row.scrollIntoView({ block: "start" });
    find(".open", row).focus({ preventScroll: true });
  };

  const turn = (place, how) => {
    if (!place._fullLayout || !place._fullLayout.scene) return;
    if (how === "reset") return Plotly.relayout(place, { "scene.camera": structuredClone(place.home) });
    const camera = place._fullLayout.scene._scene ? place._fullLayout.scene._scene.getCamera() : place.home;
    let { x, y, z } = camera.eye;
    const radius = Math.hypot(x, y, z);
    let around = Math.atan2(y, x), above = Math.asin(z / radius);
    if (how === "left") around -= TURN;
    if (how === "right") around += TURN;
    if (how === "up") above = Math.min(above + TURN, 1.5);
    if (how === "down") above = Math.max(above - TURN, -1.5);
    const scale = how === "nearer" ? 1 / 1.2 : how === "farther" ? 1.2 : 1;
    const eye = {
      x: radius * Math.cos(above) * Math.cos(around),
      y: radius * Math.cos(above) * Math.sin(around),
      z: radius * Math.sin(above),
    };
    const change = { "scene.camera.eye": eye, "scene.camera.up": { x: 0, y: 0, z: 1 } };
    if (scale !== 1) { // an orthographic camera comes nearer by the scale of the axes
      const ratio = place._fullLayout.scene.aspectratio;
      change["scene.aspectmode"] = "manual";
      for (const axis of "xyz") change[`scene.aspectratio.${axis}`] = ratio[axis] / scale;
    }
    return Plotly.relayout(place, change);
  };

  // sorting and filtering

  const keyOf = (row, column) => {
    const key = row.cells[column].dataset.key;
    if (key === undefined) return null;
    const number = Number(key);
    return key !== "" && Number.isFinite(number) ? number : key;
  };

  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b
      : String(a).localeCompare(String(b), "en", { numeric: true });

  const sortBy = (button) => {
    const head = button.closest("th");
    const column = Number(button.dataset.column);
    const first = button.dataset.first || "ascending";
    const before = head.getAttribute("aria-sort");
    const other = first === "ascending" ? "descending" : "ascending";
    const order = before === first ? other : first;
    all("thead th", table).forEach((each) => each.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const keyed = rows.map((row, i) => [keyOf(row, column), i, row]);
    keyed.sort(([a, i], [b, j]) => {
      if (a === null || b === null) return (a === null) - (b === null) || i - j; // unknown: last
      return sign * compare(a, b) || i - j;
    });
    const sorted = document.createDocumentFragment();
    for (const [, , row] of keyed) {
      const detail = detailOf(row);
      sorted.append(row, ...(detail ? [detail] : []));
    }
    table.tBodies[0].append(sorted);
  };

  let element = null; // that the table shows alone
  const known = new Set(rows.flatMap((row) => row.dataset.elements.split(" "))); // F is no part of Fe

  const fits = (row, words, verdict, domain) => {
    const { search, dft } = row.dataset;
    const elements = row.dataset.elements.split(" ");
    const has = (word) => (known.has(word) ? elements.includes(word) : search.includes(word.toLowerCase()));
    if (element && !elements.includes(element)) return false;
    if (!words.every(has)) return false;
    if (domain && !domain.split(" ").includes(row.dataset.domain)) return false;
    if (verdict === "dft") return dft !== "–";
    if (verdict === "dft-positive") return dft === "positive";
    return !verdict || row.dataset.verdict === verdict;
  };

  const filter = () => {
    const words = find("#filter").value.split(/[\s,]+/).filter(Boolean);
    const verdict = find("#verdict").value, domain = find("#domain").value;
    let n = 0;
    for (const row of rows) {
      row.hidden = !fits(row, words, verdict, domain);
      const detail = detailOf(row);
      if (detail) detail.hidden = row.hidden;
      n += !row.hidden;
    }
    const what = element ? ` with ${element}` : "";
    find("#shown").textContent = n === rows.length ? `${n} materials` : `${n} of ${rows.length} materials${what}`;
  };

  const clearFilters = () => {
    element = null;
    find("#filter").value = find("#verdict").value = find("#domain").value = "";
    filter();
  };

  const showElement = (symbol) => {
    if (!table) return;
    clearFilters();
    element = symbol;
    find("#verdict").value = "positive";
    filter();
    find("#materials").scrollIntoView();
    find("#clear").focus({ preventScroll: true });
  };

  // a detail is as wide as the window, not as its table
  const fit = () => {
    if (!table) return;
    const width = table.closest(".scroll").clientWidth;
    all("tr.detail > td > *", table).forEach((part) => { part.style.maxWidth = `${width - 26}px`; });
  };

  // what the user does

  document.addEventListener("click", (event) => {
    const target = event.target.closest("button, a");
    if (!target) return;
    const row = target.closest("tr[data-id]");
    if (target.matches(".open")) return detailOf(row) ? close(row) : open(row);
    if ("column" in target.dataset) return sortBy(target);
    if ("element" in target.dataset) return showElement(target.dataset.element);
    if ("turn" in target.dataset) return turn(find("[data-chart]", target.closest("figure")), target.dataset.turn);
    if ("close" in target.dataset) {
      const owner = target.closest("tr.detail").previousElementSibling;
      close(owner);
      find(".open", owner).focus();
    } else if (target.id === "clear") {
      clearFilters();
    } else if (/^#m\d+$/.test(target.getAttribute("href") || "")) {
      event.preventDefault();
      history.replaceState(null, "", target.getAttribute("href"));
      openMaterial(target.getAttribute("href").slice(1));
    }
  });

  if (table) {
    find("#filter").addEventListener("input", filter);
    find("#verdict").addEventListener("change", filter);
    find("#domain").addEventListener("change", filter);
  }
  window.addEventListener("resize", fit);

  const isAlone = (place) => {
    const columns = place.closest(".columns");
    return !columns || (columns.children.length === 1 && !place.closest(".detail"));
  };
  const small = { "font.size": 10, "legend.font.size": 9, "xaxis.title.font.size": 11, "yaxis.title.font.size": 11 };
  const asBefore = Object.fromEntries(["width", "height", ...Object.keys(small)].map((key) => [key, null]));
  window.addEventListener("beforeprint", () => {
    for (const place of all(".js-plotly-plot")) {
      const width = PRINTED[Number(isAlone(place))];
      Plotly.relayout(place, { ...small, width, height: 300, autosize: false });
    }
  });
  window.addEventListener("afterprint", () => {
    for (const place of all(".js-plotly-plot")) Plotly.relayout(place, { ...asBefore, autosize: true });
  });

  drawRun().catch((error) => trouble(`The charts cannot be drawn: ${error.message}`));
  if (/^#m\d+$/.test(location.hash)) openMaterial(location.hash.slice(1));
})();
