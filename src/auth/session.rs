//! What a connection may do, and until when: its token's grant, narrowed to its channel.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use super::keys::KeyId;
use super::{Access, Auth, Denied, Grant, now_ms};
use crate::protocol::Token;

/// A connection's permission; everything, and for ever, where nothing is asked for tokens.
#[derive(Default)]
pub struct Session(Option<Box<Granted>>);

struct Granted {
    auth: Arc<Auth>,
    subject: Arc<str>,
    pass: Mutex<Pass>,
}

/// What changes with another token.
#[derive(Clone, Copy)]
struct Pass {
    access: Access,
    expires_ms: u64,
    key: KeyId,
}

impl Pass {
    fn new(grant: &Grant, channel: &str) -> Result<Self, Denied> {
        let access = grant.channels.access(channel).ok_or(Denied::Channel)?;
        Ok(Pass { access, expires_ms: grant.expires_ms, key: grant.key })
    }
}

impl Session {
    /// A session in the channel.
    ///
    /// # Errors
    /// [`Denied::Channel`] if the grant does not have it.
    pub fn new(auth: &Arc<Auth>, grant: &Grant, channel: &str) -> Result<Self, Denied> {
        let pass = Mutex::new(Pass::new(grant, channel)?);
        Ok(Session(Some(Box::new(Granted { auth: auth.clone(), subject: grant.subject.clone(), pass }))))
    }

    /// Who it is, where that is asked.
    pub fn subject(&self) -> Option<&Arc<str>> {
        self.0.as_ref().map(|granted| &granted.subject)
    }

    /// Whether updates are taken.
    pub fn may_write(&self) -> bool {
        self.0.as_ref().is_none_or(|granted| granted.pass().access == Access::Write)
    }

    /// Takes a fresh token in place of the one before. It must be the same subject's and have the channel still, and may
    /// allow more or less there. One that is refused changes nothing.
    pub fn refresh(&self, token: &Token, channel: &str) -> Result<(), Denied> {
        let Some(granted) = &self.0 else { return Ok(()) };
        let grant = granted.auth.verify(token, now_ms())?;
        if grant.subject != granted.subject {
            return Err(Denied::Subject);
        }
        *granted.pass() = Pass::new(&grant, channel)?;
        Ok(())
    }

    /// Waits until the session is over: its token has expired, or the key that made it is gone. That is looked at every
    /// `review`, so that a clock that was set is noticed too. Never ready without a token.
    pub async fn ended(&self, review: Duration) -> Denied {
        match &self.0 {
            // On the heap: nobody without a token pays for it.
            Some(granted) => Box::pin(granted.ended(review)).await,
            None => std::future::pending().await,
        }
    }
}

impl Granted {
    fn pass(&self) -> MutexGuard<'_, Pass> {
        // It is written whole.
        self.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ended(&self, review: Duration) -> Denied {
        loop {
            let pass = *self.pass();
            if let Err(denied) = self.check(&pass) {
                return denied;
            }
            let left = Duration::from_millis(pass.expires_ms.saturating_sub(now_ms()));
            let mut sleep = pin!(tokio::time::sleep(left.min(review)));
            std::future::poll_fn(|cx| match self.pass().expires_ms < pass.expires_ms {
                true => Poll::Ready(()),
                false => sleep.as_mut().poll(cx),
            })
            .await;
        }
    }

    fn check(&self, pass: &Pass) -> Result<(), Denied> {
        if pass.expires_ms <= now_ms() {
            return Err(Denied::Expired);
        }
        if !self.auth.keys().has(&pass.key) {
            return Err(Denied::Revoked);
        }
        Ok(())
    }
}
