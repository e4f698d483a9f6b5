//! `dormouse token`: creates, lists and revokes the tokens that HTTP asks for.

use dormouse_ledger::{Role, Token};
use serde_json::json;

use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::output;
use super::table::{Column, render, terminal_width};
use super::when::rfc3339;
use crate::address::LedgerAddress;
use crate::config::Config;
use crate::ids::check_id;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,

    #[arg(
        help = "The ledger that keeps the tokens: a file, sqlite:PATH or postgres://... [default: the configured agent's]"
    )]
    #[arg(long, global = true, value_name = "LEDGER", value_parser = LedgerAddress::parse_or_file)]
    ledger: Option<LedgerAddress>,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Create a token and print it, this once: only its hash is kept
    Create {
        /// The org that it speaks for
        #[arg(long)]
        org: String,

        /// What it allows: read, or write, which may change tags as well
        #[arg(long, value_parser = parse_role)]
        role: Role,
    },
    /// List the tokens, those that were revoked too
    List,
    /// Revoke a token: it is refused from now on
    Revoke {
        /// The token's id, as `dormouse token list` shows it
        #[arg(value_name = "ID")]
        id: String,
    },
}

fn parse_role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| "a role is read or write".to_owned())
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let ledger = match args.ledger {
        Some(ledger) => ledger,
        None => LedgerAddress::Sqlite(Config::load_or_default(None)?.ledger_path()),
    };
    let now_unix_ns = Context::now_unix_ns()?;
    match args.action {
        Action::Create { org, role } => {
            check_id(&org).map_err(|why| Failure::usage(format!("the org {org:?} {why}")))?;
            let (token, text) =
                ledger.ask(move |ledger| ledger.create_token(&org, role, now_unix_ns)).await?;
            if context.json {
                let mut told = described(&token);
                told["token"] = json!(text);
                output::print_json(&told)?;
            } else {
                output::print(&format!("{text}\n"))?;
            }
        }
        Action::List => {
            let tokens = ledger.ask(|ledger| ledger.tokens()).await?;
            if context.json {
                output::print_json(&tokens.iter().map(described).collect())?;
            } else {
                let rows: Vec<_> = tokens.iter().map(row).collect();
                let columns = ["ID", "ORG", "ROLE", "CREATED", "REVOKED"].map(Column::long);
                output::print(&render(columns, &rows, terminal_width()))?;
            }
        }
        Action::Revoke { id } => {
            let wanted = id.clone();
            if !ledger.ask(move |ledger| ledger.revoke_token(&wanted, now_unix_ns)).await? {
                return Err(Failure::new(format!(
                    "there is no token {id} to revoke: `dormouse token list` shows them"
                )));
            }
        }
    }
    Ok(Exit::Done)
}

fn described(token: &Token) -> serde_json::Value {
    json!({
        "id": token.id,
        "org": token.org,
        "role": token.role.as_str(),
        "created_at": rfc3339(token.created_unix_ns),
        "revoked_at": token.revoked_unix_ns.map(rfc3339),
    })
}

fn row(token: &Token) -> [String; 5] {
    let Token { id, org, role, created_unix_ns, revoked_unix_ns } = token;
    let revoked = revoked_unix_ns.map(rfc3339).unwrap_or_default();
    [id.clone(), org.clone(), role.as_str().to_owned(), rfc3339(*created_unix_ns), revoked]
}
