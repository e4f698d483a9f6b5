//! Who may ask about a fleet over HTTP: bearer tokens, of which the ledger keeps a hash.

use tokio_postgres::Row;

use super::session::Session;
use crate::tokens::{Minted, Presented};
use crate::{LedgerError, Role, Token};

macro_rules! token_columns {
    () => {
        "SELECT id, org, role, created_unix_ns, revoked_unix_ns, secret_hash FROM tokens"
    };
}

const TOKEN: &str = concat!(token_columns!(), " WHERE id = $1");
const TOKENS: &str = concat!(token_columns!(), " ORDER BY org, created_unix_ns, id");
const CREATE: &str =
    "INSERT INTO tokens (id, org, role, secret_hash, created_unix_ns) VALUES ($1, $2, $3, $4, $5)";
const REVOKE: &str = "UPDATE tokens SET revoked_unix_ns = $2 WHERE id = $1 AND revoked_unix_ns IS NULL";

fn token(row: &Row) -> Result<Token, LedgerError> {
    Ok(Token {
        id: row.get(0),
        org: row.get(1),
        role: Role::parse(row.get(2)).ok_or_else(|| LedgerError::corrupt("a token has no role"))?,
        created_unix_ns: row.get(3),
        revoked_unix_ns: row.get(4),
    })
}

pub(super) fn create(
    session: &Session<'_>,
    org: &str,
    role: Role,
    at_unix_ns: i64,
) -> Result<(Token, String), LedgerError> {
    let Minted { id, text, secret_hash } = Minted::new()?;
    session.execute(CREATE, &[&id, &org, &role.as_str(), &secret_hash.as_slice(), &at_unix_ns])?;
    let token = Token { id, org: org.to_owned(), role, created_unix_ns: at_unix_ns, revoked_unix_ns: None };
    Ok((token, text))
}

pub(super) fn revoke(session: &Session<'_>, id: &str, at_unix_ns: i64) -> Result<bool, LedgerError> {
    Ok(session.execute(REVOKE, &[&id, &at_unix_ns])? == 1)
}

pub(super) fn all(session: &Session<'_>) -> Result<Vec<Token>, LedgerError> {
    session.query(TOKENS, &[])?.iter().map(token).collect()
}

/// The token of this id; `None` if there is none, or it was revoked.
pub(super) fn valid(session: &Session<'_>, id: &str) -> Result<Option<Token>, LedgerError> {
    let known = session.query(TOKEN, &[&id])?.first().map(token).transpose()?;
    Ok(known.filter(|token| token.revoked_unix_ns.is_none()))
}

pub(super) fn bearer(session: &Session<'_>, presented: &str) -> Result<Option<Token>, LedgerError> {
    let Some(presented) = Presented::parse(presented) else { return Ok(None) };
    let known = match session.query(TOKEN, &[&presented.id])?.first() {
        None => None,
        Some(row) => {
            let hash = row.get::<_, &[u8]>(5).try_into();
            Some((token(row)?, hash.map_err(|_| LedgerError::corrupt("a token has no hash"))?))
        }
    };
    Ok(presented.is(known))
}
