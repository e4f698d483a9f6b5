//! Runs the benches, or those that are named, and prints the table.

use dormouse_benches::report::Table;
use dormouse_benches::{BENCHES, Size};

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo runs benches with `--bench`. Without it somebody runs all targets as tests; the small runs are tests of
    // the library.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let names: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let mut rows = Vec::new();
    for (name, bench) in BENCHES {
        if names.is_empty() || names.iter().any(|wanted| *wanted == name) {
            eprintln!("{name} ...");
            rows.extend(bench(Size::Full)?);
        }
    }
    print!("\n{}", Table(&rows));
    Ok(())
}
