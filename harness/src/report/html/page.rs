//! The page around its parts: what a browser may do with it, style and script.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::{Report, summary, table, time};
use crate::html::escape;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = concat!(include_str!("timeline.js"), "\n", include_str!("page.js"));

/// Before anything is shown: what only a script can open is closed only if there is
/// one.
const EARLY: &str = "document.documentElement.className='js'";

/// The page.
///
/// # Errors
/// When a part of it cannot be written.
pub(super) fn page(report: &Report<'_>) -> Result<String> {
    let title = escape(&summary::title(report.results));
    // Nothing is loaded from anywhere, and nothing runs but what stands here.
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}' 'sha256-{}'; \
         base-uri 'none'; form-action 'none'",
        digest(STYLE),
        digest(EARLY),
        digest(SCRIPT)
    );
    let parts = [
        summary::head(report),
        summary::wrong(report),
        summary::about(report),
        time::section(report),
        table::section(report)?,
        table::others(report.results),
    ];
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<script>{EARLY}</script>\n</head>\n\
         <body>\n{}<script>{SCRIPT}</script>\n</body>\n</html>\n",
        parts.concat()
    ))
}

/// The SHA-256 of a text as a content security policy names it.
fn digest(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_as_browsers_write_it() {
        assert_eq!(digest(""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }

    #[test]
    fn style_and_script_end_where_they_should() {
        assert!(!STYLE.contains("</") && !SCRIPT.contains("</") && !SCRIPT.contains("<!--"));
        for word in ["url(", "@import", "http:", "https:"] {
            assert!(!STYLE.contains(word), "the style names {word}");
        }
        for word in
            ["innerHTML", "eval(", "fetch(", "outerHTML", "insertAdjacent", "document.write"]
        {
            assert!(!SCRIPT.contains(word), "the script uses {word}");
        }
    }
}
