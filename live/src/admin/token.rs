//! Who may administer: whoever knows one secret.

use std::path::{Path, PathBuf};

use hyper::header::{AUTHORIZATION, HeaderMap};
use serde::Deserialize;
use subtle::ConstantTimeEq as _;

/// Fewer can be guessed.
const BYTES_MIN: usize = 16;

/// `[admin]`: where the token is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminSection {
    /// In a file; white space around it does not count.
    TokenFile(PathBuf),
    /// In an environment variable.
    TokenEnv(String),
}

/// A token that cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("`admin.token_file`: {}: {error}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The variable is not set.
    #[error("`admin.token_env`: {0} is not set to a text; set it to the token")]
    Unset(String),
    /// Too short, or nothing that a header can hold.
    #[error(
        "{0}: a token has at least {BYTES_MIN} visible ASCII characters; make one with `openssl rand -hex 32`"
    )]
    Weak(String),
}

impl AdminSection {
    /// Makes its path relative to a folder.
    pub(crate) fn resolve(&mut self, folder: &Path) {
        if let Self::TokenFile(path) = self {
            *path = folder.join(&path);
        }
    }

    /// Checks that there is a token.
    pub(crate) fn check(&self) -> Result<(), TokenError> {
        Token::read(self).map(drop)
    }
}

/// The secret.
pub(super) struct Token(Vec<u8>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    pub(super) fn read(section: &AdminSection) -> Result<Self, TokenError> {
        let (text, place) = match section {
            AdminSection::TokenFile(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| TokenError::Read { path: path.clone(), error })?;
                (text, format!("`admin.token_file`: {}", path.display()))
            }
            AdminSection::TokenEnv(name) => {
                let text = std::env::var(name).map_err(|_| TokenError::Unset(name.clone()))?;
                (text, format!("`admin.token_env`: {name}"))
            }
        };
        let token = text.trim().as_bytes();
        if token.len() < BYTES_MIN || !token.iter().all(u8::is_ascii_graphic) {
            return Err(TokenError::Weak(place));
        }
        Ok(Self(token.to_vec()))
    }

    /// Whether the request has it. How long that takes says nothing of the token but its length.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(given), None) = (given.next(), given.next()) else { return false };
        let Some((scheme, token)) = given.as_bytes().split_at_checked(7) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(token.ct_eq(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_is_the_token() {
        let token = Token(b"0123456789abcdef".to_vec());
        let has = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            token.is_in(&headers)
        };
        let right = "Bearer 0123456789abcdef";
        assert!(has(&[right]) && has(&["bearer 0123456789abcdef"]));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Basic 0123456789abcdef",
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "0123456789abcdef",
        ] {
            assert!(!has(&[wrong]), "{wrong}");
        }
        assert!(!has(&[]) && !has(&[right, right]));
        assert!(!format!("{token:?}").contains("0123"));
    }

    #[test]
    fn a_token_that_can_be_guessed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            AdminSection::TokenFile(path.clone()).check().map_err(|error| error.to_string())
        };
        assert_eq!(read(" 0123456789abcdef\n"), Ok(()));
        for text in ["", "\n", "short", "0123456789 abcdef", "0123456789äbcdef"] {
            let message = read(text).unwrap_err();
            assert!(message.contains("openssl rand -hex 32"), "{text}: {message}");
        }
        let absent = AdminSection::TokenEnv("LODESTAR_NO_SUCH_VARIABLE".to_owned());
        assert!(absent.check().unwrap_err().to_string().contains("LODESTAR_NO_SUCH_VARIABLE"));
    }
}
