/// What the pages have in common: one file each, readable without a network and without scripts.
func htmlPage(title: String, summary: String, content: String) -> String {
    """
    <!DOCTYPE html>
    <html lang="en">
    <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>\(escaped(title))</title>
    <style>\(reportStyle)</style>
    </head>
    <body>
    <header><h1>\(escaped(title))</h1><p>\(escaped(summary))</p></header>
    <main>
    \(content)
    </main>
    <footer>Written by Tessera</footer>
    </body>
    </html>

    """
}

func section(_ title: String, _ content: String, when isThere: Bool) -> String {
    isThere ? "<section><h2>\(escaped(title))</h2>\(content)</section>\n" : ""
}

/// The figures shown large.
func tiles(_ facts: [Report.Fact]) -> String {
    if facts.isEmpty { return "" }
    let tiles = facts.map { "<div><dt>\(escaped($0.name))</dt><dd>\(escaped($0.value))</dd></div>" }
    return "<dl class=\"tiles\">\(tiles.joined())</dl>"
}

func factTable(_ facts: [Report.Fact]) -> String {
    let rows = facts.map { "<tr><th scope=\"row\">\(escaped($0.name))</th><td>\(escaped($0.value))</td></tr>" }
    return section("Configuration", "<table class=\"facts\">\(rows.joined())</table>", when: !facts.isEmpty)
}

/// Text that HTML shows as it is, in attributes too.
func escaped(_ text: String) -> String {
    text.unicodeScalars.reduce(into: "") { result, scalar in
        switch scalar {
        case "&": result += "&amp;"
        case "<": result += "&lt;"
        case ">": result += "&gt;"
        case "\"": result += "&quot;"
        case "'": result += "&#39;"
        default: result.unicodeScalars.append(scalar)
        }
    }
}
