// Starts CircuitsVis in a box when it is opened, and names what it draws for keyboards and screen readers.
(function () {
  var words = "attention pattern of the head named above, from each token (row) to the tokens before it (column); " +
    "what the last token attends to stands in the table of numbers";
  function say(view) {
    view.querySelectorAll("canvas").forEach(function (drawn) {
      if (drawn.closest("[role=button]")) { drawn.setAttribute("aria-hidden", "true"); return; }
      drawn.setAttribute("role", "img");
      drawn.setAttribute("aria-label", words);
    });
  }
  function start(box) {
    var view = box.querySelector(".cv");
    if (!view || view.dataset.done || typeof CircuitsVis === "undefined") return;
    view.dataset.done = "1";
    var props = JSON.parse(box.querySelector("script[type='application/json']").textContent);
    CircuitsVis.render(view.id, CircuitsVis.AttentionHeads, props);
    new MutationObserver(function () { say(view); }).observe(view, {childList: true, subtree: true});
    var tries = 0, timer = setInterval(function () {
      var names = view.querySelectorAll("h4");
      if (!names.length && ++tries < 50) return;
      clearInterval(timer);
      names.forEach(function (name) {
        var thumb = name.parentElement, whole = thumb.parentElement;
        if (!thumb.querySelector("canvas") || thumb.offsetWidth > 140) return;
        thumb.tabIndex = 0;
        thumb.querySelector("canvas").removeAttribute("role");
        thumb.setAttribute("role", "button");
        thumb.setAttribute("aria-label", "show the attention of head " + name.textContent);
        thumb.addEventListener("keydown", function (event) {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          (whole || thumb).dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
          thumb.dispatchEvent(new MouseEvent("click", {bubbles: true}));
        });
      });
      say(view);
    }, 60);
  }
  document.querySelectorAll("details.attention").forEach(function (box) {
    box.addEventListener("toggle", function () { if (box.open) start(box); });
    if (box.open) start(box);
  });
})();
