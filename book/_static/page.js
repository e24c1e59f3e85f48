// What neither the theme's options nor CSS can do; pages read well without it.
document.addEventListener("DOMContentLoaded", () => {
  // The line that says which profile, data and training a page shows.
  for (const line of document.querySelectorAll(".bd-article p")) {
    const first = line.firstElementChild;
    if (first?.tagName === "STRONG" && first === line.firstChild && line.textContent.includes(" · ")) {
      line.classList.add("profile-badge");
    }
  }
  // Hidden cells: the visible words name the toggle, not one label for all of them.
  for (const toggle of document.querySelectorAll("details.hide > summary")) {
    toggle.removeAttribute("aria-label");
  }
  // The arrows that open a part of the table of contents are named after that part.
  for (const toggle of document.querySelectorAll(".has-children > details > summary")) {
    toggle.setAttribute("aria-label", `Pages under ${toggle.closest("li").firstElementChild.textContent}`);
  }
  // The bibliography is a list, so its entries are items; their own role is deprecated.
  for (const entry of document.querySelectorAll(".citation-list > .citation")) {
    entry.setAttribute("role", "listitem");
  }
});
