// What a reader can do with the page: each function is one control. Without it the page is whole, and stands still.
(function () {
  var root = document.documentElement, all = function (what, where) {
    return Array.prototype.slice.call((where || document).querySelectorAll(what));
  };

  // Controls exist for those who can use them.
  function reveal() {
    root.classList.add("scripted");
    all(".slide, .toggle, .filters, .and").forEach(function (control) { control.hidden = false; });
  }

  // A mark takes, for each of its attributes, the value of the slider's stop; a dash keeps the one before.
  function place(mark, stop) {
    Object.keys(mark.dataset).forEach(function (key) {
      if (key === "by") return;
      if (key === "say") { mark.textContent = mark.dataset.say.split("|")[stop]; return; }
      var value = mark.dataset[key].split(" ")[stop];
      if (value !== undefined && value !== "-") mark.setAttribute(key, value);
    });
  }

  // All sliders of one name stand at one stop, and all its marks follow.
  function slide() {
    var stops = {};
    all("input[data-slides]").forEach(function (input) {
      input.addEventListener("input", function () { moveTo(input.dataset.slides, Number(input.value)); });
      stops[input.dataset.slides] = Number(input.value);
    });
    Object.keys(stops).forEach(function (name) { moveTo(name, stops[name]); });
  }
  function moveTo(name, stop) {
    all("input[data-slides='" + name + "']").forEach(function (input) {
      var words = input.dataset.words.split("|")[stop];
      input.value = stop;
      input.setAttribute("aria-valuetext", words);
      input.parentElement.querySelector("output").textContent = words;
    });
    all("[data-by='" + name + "']").forEach(function (mark) { place(mark, stop); });
  }

  // A modality that is not ticked is hidden everywhere: panels, cards, rows of figures and tables, answers.
  function toggle() {
    all("[data-toggles]").forEach(function (box) { box.addEventListener("change", show); });
    function show() {
      var off = all("[data-toggles]").filter(function (box) { return !box.checked; }).map(function (box) {
        return box.dataset.toggles;
      });
      all("[data-modality]").forEach(function (part) {
        part.toggleAttribute("data-off", off.indexOf(part.dataset.modality) >= 0);
      });
      count();
    }
  }

  // Rows of tables whose name begins with a modality belong to it.
  function label() {
    var known = all("[data-toggles]").map(function (box) { return box.dataset.toggles; });
    all("tbody tr").forEach(function (row) {
      var name = row.cells[0].textContent.split(/[ ,:]/)[0];
      if (known.indexOf(name) >= 0 && row.cells.length > 1) row.dataset.modality = name;
    });
  }

  // Answers that fit every choice stay.
  function filter() {
    var choices = all("[data-filter]");
    choices.forEach(function (choice) { choice.addEventListener("input", choose); });
    function choose() {
      all(".item").forEach(function (item) {
        item.hidden = !choices.every(function (choice) { return fits(item, choice.dataset.filter, choice.value); });
      });
      count();
    }
  }
  function fits(item, key, wanted) {
    if (!wanted) return true;
    if (key === "words") return item.textContent.toLowerCase().indexOf(wanted.toLowerCase()) >= 0;
    return (item.dataset[key] || "").split(" ").indexOf(wanted) >= 0;
  }
  function count() {
    var said = document.querySelector(".filters .count"), every = all(".item");
    if (!said) return;
    var shown = every.filter(function (item) { return !item.hidden && !item.hasAttribute("data-off"); });
    said.textContent = shown.length + " of " + every.length + " answers";
  }

  // A point leads to its item, which opens whatever the filters say.
  function follow() {
    all("a[href^='#item-']").forEach(function (point) {
      point.addEventListener("click", function (event) {
        event.preventDefault();
        open(point.getAttribute("href").slice(1));
      });
    });
    if (/^#item-\d+$/.test(location.hash)) open(location.hash.slice(1));
  }
  function open(id) {
    var item = document.getElementById(id);
    if (!item) return;
    item.hidden = false;
    item.removeAttribute("data-off");
    item.open = true;
    item.scrollIntoView({block: "center"});
    item.querySelector("summary").focus({preventScroll: true});
    count();
  }

  // A table is sorted by a column, by numbers where its cells begin with one.
  function sort() {
    all("thead th").forEach(function (head) {
      var button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      while (head.firstChild) button.appendChild(head.firstChild);
      if (!button.textContent) button.setAttribute("aria-label", "sort by name");
      head.appendChild(button);
      button.addEventListener("click", function () { order(head); });
    });
  }
  function order(head) {
    var table = head.closest("table"), column = head.cellIndex, up = head.getAttribute("aria-sort") !== "ascending";
    all("thead th", table).forEach(function (other) { other.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    var rows = all("tbody tr", table).map(function (row, place) {
      var said = row.cells[column] ? row.cells[column].textContent.trim() : "";
      return {row: row, place: place, said: said, value: number(said)};
    });
    rows.sort(function (a, b) { return compare(a, b, up ? 1 : -1) || a.place - b.place; });
    rows.forEach(function (found) { found.row.parentElement.appendChild(found.row); });
  }
  // What has no number comes last, whichever way the numbers run.
  function compare(a, b, sign) {
    if (isNaN(a.value) && isNaN(b.value)) return sign * a.said.localeCompare(b.said, "en", {numeric: true});
    if (isNaN(a.value) || isNaN(b.value)) return isNaN(a.value) ? 1 : -1;
    return sign * (a.value - b.value);
  }
  function number(said) {
    var found = /^[+]?(-?\d[\d,]*(\.\d+)?(e[+-]?\d+)?)/.exec(said.replace(/\u2212/g, "-"));
    return found ? Number(found[1].replace(/,/g, "")) : NaN;
  }

  // Every figure hands out its numbers and its drawing.
  function hand() {
    all("figure.figure").forEach(function (figure) {
      var tools = document.createElement("p");
      tools.className = "tools";
      tools.appendChild(download("Numbers (CSV)", figure.id + ".csv", "text/csv", function () {
        return all("table", figure).map(csv).join("\r\n\r\n");
      }));
      all(".panel > svg", figure).forEach(function (drawing, place, every) {
        var name = figure.id + (every.length > 1 ? "-" + (place + 1) : "") + ".svg";
        var said = every.length > 1 ? "Drawing " + (place + 1) + " (SVG)" : "Drawing (SVG)";
        tools.appendChild(download(said, name, "image/svg+xml", function () { return svg(drawing); }));
      });
      figure.appendChild(tools);
    });
  }
  function download(said, name, type, make) {
    var link = document.createElement("a");
    link.textContent = said;
    link.download = name;
    link.href = "#";
    link.addEventListener("click", function () {
      if (link.dataset.made) URL.revokeObjectURL(link.href);
      link.href = URL.createObjectURL(new Blob([make()], {type: type + ";charset=utf-8"}));
      link.dataset.made = "1";
    });
    return link;
  }
  // A cell that a spreadsheet would take for a formula is given as text.
  function csv(table) {
    return all("tr", table).map(function (row) {
      return all("th, td", row).map(function (cell) {
        var said = cell.textContent.trim().replace(/\u2212/g, "-");
        if (/^[=@\t\r]|^[+-](?![\d.])/.test(said)) said = "'" + said;
        return /[",\r\n]/.test(said) ? '"' + said.replace(/"/g, '""') + '"' : said;
      }).join(",");
    }).join("\r\n");
  }
  // A drawing by itself has no stylesheet: what the page gives it is written into it.
  function svg(drawing) {
    var copy = drawing.cloneNode(true), look = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity",
      "fill-opacity", "stroke-opacity", "font-size", "font-weight", "font-family", "paint-order", "display"];
    var copies = [copy].concat(all("*", copy));
    [drawing].concat(all("*", drawing)).forEach(function (mark, place) {
      var seen = getComputedStyle(mark);
      copies[place].setAttribute("style", look.map(function (name) {
        return name + ":" + seen.getPropertyValue(name);
      }).join(";"));
    });
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    var page = document.createElementNS("http://www.w3.org/2000/svg", "rect"), size = drawing.viewBox.baseVal;
    page.setAttribute("width", size.width);
    page.setAttribute("height", size.height);
    page.setAttribute("style", "fill:" + getComputedStyle(document.body).backgroundColor);
    copy.insertBefore(page, copy.firstChild);
    return new XMLSerializer().serializeToString(copy);
  }

  // The contents stand open beside a wide page and closed above a narrow one; the chapter that is read is marked.
  function guide() {
    var box = document.querySelector(".contents"), wide = window.matchMedia("(min-width: 1180px)");
    if (!box) return;
    function fold() { box.open = wide.matches; }
    wide.addEventListener("change", fold);
    fold();
    var links = all("a", box), chapters = links.map(function (link) {
      return document.getElementById(link.getAttribute("href").slice(1));
    });
    function mark() {
      var here = 0;
      chapters.forEach(function (chapter, place) {
        if (chapter.getBoundingClientRect().top < window.innerHeight / 3) here = place;
      });
      links.forEach(function (link, place) {
        if (place === here) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
      });
    }
    window.addEventListener("scroll", mark, {passive: true});
    links.forEach(function (link) {
      link.addEventListener("click", function () { if (!wide.matches) box.open = false; });
    });
    mark();
  }

  reveal();
  label();
  slide();
  toggle();
  filter();
  count();
  follow();
  hand();
  sort();
  guide();
})();
