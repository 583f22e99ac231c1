//! Replication that fails and begins again for ever: noticed, so that the move can begin anew with
//! another slot instead of waiting.
//!
//! A worker that ends with an error is started again by PostgreSQL as often as it likes, and only the
//! node's log says why. What cannot pass by itself (a slot whose past the server cannot read any more,
//! a row in the way) shows as failures without progress.

use std::time::{Duration, Instant};

use super::ctx::Ctx;
use super::error::StepError;

/// So many failures, over so long a time, without any progress: then it is hopeless.
const HOPELESS: i64 = 10;
const AT_LEAST: Duration = Duration::from_secs(2);
/// Between two looks.
const SELDOM: Duration = Duration::from_millis(500);

/// What was seen of the subscription that feeds the target. Copying and applying are told apart: the
/// one may go on while the other fails.
#[derive(Debug, Default)]
pub struct Failures {
    looked: Option<Instant>,
    copying: Option<Streak>,
    applying: Option<Streak>,
    /// The most tables in step, and the most rows of running copies, that were ever seen.
    copied: (i64, i64),
    /// Up to where the slot's subscriber had everything.
    confirmed: Option<String>,
}

/// Failures since the last progress.
#[derive(Debug, Clone, Copy)]
struct Streak {
    since: Instant,
    /// What PostgreSQL had counted then.
    count: i64,
}

impl Failures {
    /// Looks, not too often, and says in SHOW MOVES what it has seen.
    ///
    /// # Errors
    /// [`StepError::Stuck`] when it is hopeless.
    pub async fn look(&mut self, ctx: &Ctx) -> Result<(), StepError> {
        let now = Instant::now();
        if self.looked.is_some_and(|at| now - at < SELDOM) {
            return Ok(());
        }
        self.looked = Some(now);
        let Some(seen) = read(ctx).await? else { return Ok(()) };
        let copied = (self.copied.0.max(seen.copied.0), self.copied.1.max(seen.copied.1));
        let gained = copied != std::mem::replace(&mut self.copied, copied);
        let failed = extend(&mut self.copying, gained, seen.copy_errors, now);
        judge(ctx, "copy", failed)?;
        let moved = seen.confirmed != self.confirmed;
        self.confirmed = seen.confirmed;
        let failed = extend(&mut self.applying, moved, seen.apply_errors, now);
        judge(ctx, "replication", failed)
    }
}

/// How often it has failed without progress by now, and for how long.
fn extend(
    streak: &mut Option<Streak>,
    progress: bool,
    count: i64,
    now: Instant,
) -> (i64, Duration) {
    let fresh = Streak { since: now, count };
    let begun = match streak {
        // The node has forgotten its counts, as after a crash.
        Some(s) if !progress && s.count <= count => *s,
        _ => fresh,
    };
    *streak = Some(begun);
    (count - begun.count, now - begun.since)
}

fn judge(ctx: &Ctx, what: &str, (failed, time): (i64, Duration)) -> Result<(), StepError> {
    if failed == 0 {
        return Ok(());
    }
    let node = &ctx.plan.target.name;
    let why =
        format!("{node}: the {what} has failed {failed} times without progress; its log says why");
    if failed >= HOPELESS && time >= AT_LEAST {
        return Err(StepError::Stuck(why));
    }
    ctx.show(|p| p.blocker = Some(why));
    Ok(())
}

struct Seen {
    copy_errors: i64,
    apply_errors: i64,
    /// Tables that are copied and in step, and rows of running copies.
    copied: (i64, i64),
    confirmed: Option<String>,
}

/// `None`: this version of PostgreSQL does not count failures.
async fn read(ctx: &Ctx) -> Result<Option<Seen>, StepError> {
    let (doing, name) = ("looking for failures", ctx.plan.feed());
    let counts = "SELECT WHERE to_regclass('pg_catalog.pg_stat_subscription_stats') IS NOT NULL";
    if !ctx.target.exists(doing, counts, &[]).await? {
        return Ok(None);
    }
    let row = ctx
        .target
        .opt(
            doing,
            "SELECT t.sync_error_count, t.apply_error_count,
                    (SELECT count(*) FROM pg_subscription_rel r WHERE r.srsubid = t.subid AND r.srsubstate = 'r'),
                    (SELECT coalesce(sum(p.tuples_processed), 0)::bigint FROM pg_stat_progress_copy p
                     JOIN pg_subscription_rel r ON r.srrelid = p.relid WHERE r.srsubid = t.subid)
             FROM pg_stat_subscription_stats t WHERE t.subname = $1",
            &[&name],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let slot = ctx
        .source
        .opt(
            doing,
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1",
            &[&name],
        )
        .await?;
    Ok(Some(Seen {
        copy_errors: row.get(0),
        apply_errors: row.get(1),
        copied: (row.get(2), row.get(3)),
        confirmed: slot.and_then(|r| r.get(0)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_from_the_last_progress_on() {
        let (mut streak, start) = (None, Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(extend(&mut streak, true, 3, at(0)).0, 0, "what was before does not count");
        assert_eq!(extend(&mut streak, false, 7, at(4)), (4, Duration::from_secs(4)));
        assert_eq!(extend(&mut streak, true, 8, at(5)).0, 0);
        assert_eq!(extend(&mut streak, false, 9, at(6)), (1, Duration::from_secs(1)));
        assert_eq!(extend(&mut streak, false, 1, at(7)).0, 0, "the node counts anew");
    }
}
