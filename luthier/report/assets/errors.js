// What goes wrong while the page is drawn is noted on the root element.
addEventListener("error", (event) => { document.documentElement.dataset.error = event.message || "error"; });
addEventListener("securitypolicyviolation", (event) => { document.documentElement.dataset.blocked = event.blockedURI; });
