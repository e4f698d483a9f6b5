//! Who may ask over HTTP: bearer tokens, of which the ledger keeps a hash.

use std::fs::File;
use std::io::Read;

use rusqlite::{OptionalExtension, Row};

use crate::encode::{bad, text};
use crate::records::words;
use crate::{Editor, LedgerError, Reader};

const PREFIX: &str = "dormouse_";
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

words! {
    /// What a token allows.
    Role {
        /// Questions.
        Read = "read",
        /// Questions, and changing tags.
        Write = "write",
    }
}

/// What the ledger knows of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id: the public part.
    pub id: String,
    /// For which org it speaks.
    pub org: String,
    /// What it allows.
    pub role: Role,
    /// When it was created, in nanoseconds since the Unix epoch.
    pub created_unix_ns: i64,
    /// When it was revoked.
    pub revoked_unix_ns: Option<i64>,
}

macro_rules! token_columns {
    () => {
        "SELECT id, org, role, created_unix_ns, revoked_unix_ns, secret_hash FROM tokens"
    };
}

const TOKEN: &str = concat!(token_columns!(), " WHERE id = ?1");
const TOKENS: &str = concat!(token_columns!(), " ORDER BY org, created_unix_ns, id");
const CREATE: &str =
    "INSERT INTO tokens (id, org, role, secret_hash, created_unix_ns) VALUES (?1, ?2, ?3, ?4, ?5)";
const REVOKE: &str = "UPDATE tokens SET revoked_unix_ns = ?2 WHERE id = ?1 AND revoked_unix_ns IS NULL";

fn token(row: &Row<'_>) -> rusqlite::Result<Token> {
    Ok(Token {
        id: row.get(0)?,
        org: row.get(1)?,
        role: Role::parse(text(row, 2)?).ok_or_else(|| bad(2, "no role"))?,
        created_unix_ns: row.get(3)?,
        revoked_unix_ns: row.get(4)?,
    })
}

/// Bytes from the kernel, in hexadecimal.
fn random_hex<const BYTES: usize>() -> Result<String, LedgerError> {
    let mut bytes = [0; BYTES];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(|error| LedgerError::rejected(format!("the kernel gives no random bytes: {error}")))?;
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    Ok(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect())
}

/// A token before it is stored: its id, what its text is, and the hash of the secret in it.
pub(crate) struct Minted {
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) secret_hash: [u8; 32],
}

impl Minted {
    pub(crate) fn new() -> Result<Self, LedgerError> {
        let (id, secret) = (random_hex::<ID_BYTES>()?, random_hex::<SECRET_BYTES>()?);
        let secret_hash = *blake3::hash(secret.as_bytes()).as_bytes();
        Ok(Self { text: format!("{PREFIX}{id}_{secret}"), id, secret_hash })
    }
}

/// The text of a token, as it was presented.
pub(crate) struct Presented<'a> {
    pub(crate) id: &'a str,
    secret: &'a str,
}

impl<'a> Presented<'a> {
    /// `None` if it is not written as tokens are.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        Some(Self { id, secret })
    }

    /// The token that is known by the id, with its hash, if this is it and it was not revoked.
    pub(crate) fn is(&self, known: Option<(Token, [u8; 32])>) -> Option<Token> {
        let stored = known.as_ref().map_or([0; 32], |(_, hash)| *hash);
        // This comparison of hashes is in constant time.
        let is_it = blake3::hash(self.secret.as_bytes()) == blake3::Hash::from_bytes(stored);
        known.map(|(token, _)| token).filter(|token| is_it && token.revoked_unix_ns.is_none())
    }
}

impl Editor {
    /// Creates a token for an org as of `at_unix_ns`. The text, with the secret in it, is told this once.
    pub fn create_token(
        &mut self,
        org: &str,
        role: Role,
        at_unix_ns: i64,
    ) -> Result<(Token, String), LedgerError> {
        let Minted { id, text, secret_hash } = Minted::new()?;
        self.change(|conn| {
            conn.prepare_cached(CREATE)?.execute((&id, org, role.as_str(), secret_hash, at_unix_ns))?;
            Ok((conn.query_row(TOKEN, [&id], token)?, text))
        })
    }

    /// Revokes a token at once and for good. Whether there was one to revoke.
    pub fn revoke_token(&mut self, id: &str, at_unix_ns: i64) -> Result<bool, LedgerError> {
        self.change(|conn| Ok(conn.execute(REVOKE, (id, at_unix_ns))? == 1))
    }
}

impl Reader {
    /// Every token that there ever was, by org and age.
    pub(crate) fn all_tokens(&self) -> Result<Vec<Token>, LedgerError> {
        self.answer(|conn| {
            let mut statement = conn.prepare_cached(TOKENS)?;
            Ok(statement.query_map([], token)?.collect::<Result<_, _>>()?)
        })
    }

    /// The token of this id; `None` if there is none, or it was revoked.
    pub fn token(&self, id: &str) -> Result<Option<Token>, LedgerError> {
        self.answer(|conn| {
            let known = conn.prepare_cached(TOKEN)?.query_row([id], token).optional()?;
            Ok(known.filter(|token| token.revoked_unix_ns.is_none()))
        })
    }

    /// Whose token a text is.
    pub(crate) fn token_of(&self, presented: &str) -> Result<Option<Token>, LedgerError> {
        let Some(presented) = Presented::parse(presented) else { return Ok(None) };
        self.answer(|conn| {
            let mut find = conn.prepare_cached(TOKEN)?;
            let known = find.query_row([presented.id], |row| Ok((token(row)?, row.get(5)?))).optional()?;
            Ok(presented.is(known))
        })
    }
}
