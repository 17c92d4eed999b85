//! Whose tokens are whose.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{error::AuthError, id::UserId, principal::JwtClaims};

/// Which user a token stands for.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum UserIds {
    /// The subject, as it is: a person's API keys and JWTs belong to one user. Only one issuer may do so.
    #[default]
    Subject,
    /// `<issuer>#<subject>`: no two issuers can mean the same user.
    Namespaced,
    /// What a [`UserMapper`] says.
    Mapped(Arc<dyn UserMapper>),
}

impl fmt::Debug for UserIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Subject => "Subject",
            Self::Namespaced => "Namespaced",
            Self::Mapped(_) => "Mapped(…)",
        })
    }
}

/// Finds the local user of a verified token, for example in a table of linked accounts.
///
/// Its answer is kept with the verified token, until that expires, makes room for others or is judged anew: once a
/// minute where users or their roles are looked up in a directory. It is asked again for a token that it refused
/// or could not judge. It has 4.5 seconds. It must not give one user's id to tokens of another; ids that begin with
/// `keyward:` or `static:` are refused.
#[async_trait]
pub trait UserMapper: fmt::Debug + Send + Sync + 'static {
    /// The user; `None` refuses the token (401).
    ///
    /// # Errors
    /// When it cannot be found out at the moment: the answer is then 503.
    async fn user_id(&self, jwt: &JwtClaims) -> Result<Option<UserId>, AuthError>;
}
