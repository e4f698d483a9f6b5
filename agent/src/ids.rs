//! What the names of orgs, sandboxes, cells and hosts are made of.

/// The most characters that an id has.
pub const ID_CHARS_MAX: usize = 128;

/// Checks an id: 1 to 128 of `[A-Za-z0-9._-]`, not starting with `.` or `-`. Such an id is safe as a file name,
/// in a URI and behind a command's options. The error says what an id may be, for a message that begins with
/// the id's name.
pub fn check_id(id: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if id.is_empty() {
        Err("is empty: an id has 1 to 128 characters")
    } else if id.len() > ID_CHARS_MAX {
        Err("is too long: an id has 1 to 128 characters")
    } else if !id.bytes().all(allowed) {
        Err("has a character that ids do not have: use letters, digits, '.', '_' and '-'")
    } else if id.starts_with(['.', '-']) {
        Err("starts with '.' or '-': start an id with a letter, a digit or '_'")
    } else {
        Ok(())
    }
}

/// A request id for a command that came without one: 122 random bits from the kernel, in hexadecimal.
pub fn new_request_id() -> std::io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").map(|uuid| uuid.trim().replace('-', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_safe_as_file_names_and_arguments() {
        for good in ["a", "_", "sb-1.2_3", "9", &"x".repeat(128)] {
            assert_eq!(check_id(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", ".a", "-a", "a/b", "/", "a b", "ü", "a\0", "a\n", &"x".repeat(129)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }
}
