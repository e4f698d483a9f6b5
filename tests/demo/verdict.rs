//! The last lines of a demo: what was claimed, whether it is so, and where to read on.

use std::fs;
use std::io::Write;
use std::path::Path;

use console::style;
use dormouse_tests::Error;
use serde_json::Value;

use crate::claims::Claims;
use crate::failure::Result;
use crate::story::Story;

/// Leaves the document in the folder, and tells it to programs or the claims to people.
pub(crate) fn tell(
    story: &Story,
    claims: &Claims,
    document: &Value,
    folder: &Path,
    json: bool,
) -> Result<()> {
    let path = folder.join("demo.json");
    fs::write(&path, format!("{document:#}\n")).map_err(Error::io("writing", &path))?;
    if json {
        // A reader who has gone knows what was to be known from the exit code.
        let _ = writeln!(std::io::stdout(), "{document:#}");
    }
    if json || !document["error"].is_null() {
        for claim in claims.broken() {
            eprintln!("demo: it is not so: {}: {}", claim.text, claim.found);
        }
        eprintln!("demo: ledgers, logs and demo.json are in {}", folder.display());
        return Ok(());
    }
    story.heading("Verdict");
    let (all, broken) = (claims.all(), claims.broken().count());
    for claim in all.iter().filter(|claim| claim.is_headline || !claim.holds) {
        let mark = if claim.holds { style("✓").green() } else { style("✗").red() };
        story.tell(format_args!("{mark} {}: {}", claim.text, style(&claim.found).dim()));
    }
    let others = all.iter().filter(|claim| !claim.is_headline && claim.holds).count();
    let mark = style("✓").green();
    story.tell(format_args!("{mark} {others} answers on the way were as asked, and as QEMU itself says"));
    let said = if broken == 0 {
        style("All of it is so".to_owned()).green().bold()
    } else {
        style(format!("{broken} of {} are not so", all.len())).red().bold()
    };
    let (elapsed, folder) = (story.elapsed().as_secs_f32(), folder.display());
    story.tell(format_args!("\n{said}, after {elapsed:.0} s. Ledgers, logs and demo.json are in {folder}"));
    Ok(())
}
