//! Both sides, read along each other.

use std::{cmp::Ordering, vec};

use super::{
    Comparison, Contents, Damaged, Item, OnProgress, Position, Progress, Report, Section, Side, Step,
    StoredToken, Transfer, TransferError,
    audit::{Chain, Log},
    belongs,
    digest::Hasher,
};
use crate::{
    principal::AdminProof,
    store::{AuditEntry, ChainEnds, TokenStore},
    time::UnixTime,
};

/// What was read of one side so far.
#[derive(Debug, Default)]
struct Sum {
    hasher: Hasher,
    revoked_jwts: u64,
    users: u64,
    tokens: u64,
    audit_entries: u64,
}

impl Sum {
    fn add(&mut self, item: &Item) {
        let count = match item {
            Item::Jwt(_) => &mut self.revoked_jwts,
            Item::User(_) => &mut self.users,
            Item::Token(_) => &mut self.tokens,
        };
        *count += 1;
        self.hasher.item(item);
    }

    fn add_entry(&mut self, entry: &AuditEntry) {
        self.audit_entries += 1;
        self.hasher.audit_entry(entry);
    }

    fn finish(self) -> Contents {
        let Self { hasher, revoked_jwts, users, tokens, audit_entries } = self;
        Contents { revoked_jwts, users, tokens, audit_entries, digest: hasher.finish() }
    }
}

/// How far a comparison is.
struct Comparing<'r, 'f> {
    sums: [Sum; 2],
    ended: u64,
    now: UnixTime,
    progress: Progress,
    report: &'r mut Report,
    on_progress: OnProgress<'f>,
}

impl Comparing<'_, '_> {
    /// Adds what was read of the source.
    fn advance(&mut self, done: u64, total: Option<u64>) {
        self.progress.done += done;
        if let Some(total) = total {
            self.progress.total = Some(self.progress.total.unwrap_or(0) + total);
        }
        (self.on_progress)(&self.progress);
    }

    fn damaged(&mut self, side: Side, damaged: Vec<Damaged>) {
        for Damaged { name, reason } in damaged {
            let known = self.report.findings.iter().any(|known| known.side == side && known.item == name);
            if !known {
                self.report.find(side, &name, &reason);
            }
        }
    }
}

impl Transfer<'_> {
    pub(super) async fn compare_into(
        &self,
        report: &mut Report,
        on_progress: OnProgress<'_>,
    ) -> Result<(), TransferError> {
        let mut comparing = Comparing {
            sums: Default::default(),
            ended: 0,
            now: self.clock.now(),
            progress: Progress { step: Step::Compare, done: 0, total: None },
            report,
            on_progress,
        };
        for section in [Section::RevokedJwts, Section::Users, Section::Tokens] {
            self.compare_section(section, &mut comparing).await?;
        }
        self.compare_audit(&mut comparing).await?;
        let Comparing { sums: [source, target], ended, report, .. } = comparing;
        report.comparison = Some(Comparison { source: source.finish(), target: target.finish(), ended });
        Ok(())
    }

    async fn compare_section(
        &self,
        section: Section,
        comparing: &mut Comparing<'_, '_>,
    ) -> Result<(), TransferError> {
        let mut source = self.reader(Side::Source, self.source, section);
        let mut target = self.reader(Side::Target, self.target, section);
        let (mut here, mut there) = (source.next(comparing).await?, target.next(comparing).await?);
        loop {
            let order = match (&here, &there) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(here), Some(there)) => here.key().cmp(&there.key()),
            };
            self.note_pair(
                here.as_ref().filter(|_| order.is_le()),
                there.as_ref().filter(|_| order.is_ge()),
                comparing,
            );
            if order.is_le() {
                here = source.next(comparing).await?;
            }
            if order.is_ge() {
                there = target.next(comparing).await?;
            }
        }
    }

    /// Takes note of what each side has of one thing.
    fn note_pair(&self, here: Option<&Item>, there: Option<&Item>, comparing: &mut Comparing<'_, '_>) {
        let [source, target] = &mut comparing.sums;
        here.into_iter().for_each(|item| source.add(item));
        match (here, there) {
            (None, Some(Item::Token(token))) if self.has_ended(&token.record, comparing.now) => {
                comparing.ended += 1;
                return;
            }
            _ => there.into_iter().for_each(|item| target.add(item)),
        }
        match (here, there) {
            (Some(here), Some(there)) if here != there => {
                comparing.report.find(Side::Target, there, &difference(here, there));
            }
            (Some(here), None) => comparing.report.find(Side::Target, here, &"is missing"),
            (None, Some(there)) => comparing.report.find(Side::Target, there, &"is in the target only"),
            _ => {}
        }
    }

    async fn compare_audit(&self, comparing: &mut Comparing<'_, '_>) -> Result<(), TransferError> {
        let Some([source, target]) = self.logs() else { return Ok(()) };
        let mut source = LogReader::new(source, self.batch).await?;
        let mut target = LogReader::new(target, self.batch).await?;
        for (sum, reader) in comparing.sums.iter_mut().zip([&source, &target]) {
            sum.hasher.audit_ends(&reader.ends);
        }
        if source.ends.anchor != target.ends.anchor {
            let what = format!("it begins after {} instead of {}", target.ends.anchor, source.ends.anchor);
            comparing.report.find(Side::Target, &"audit log", &what);
        }
        let (mut here, mut there) = (source.next().await?, target.next().await?);
        while let Some(number) = here.iter().chain(&there).map(|entry| entry.number).min() {
            let [from_source, from_target] =
                [&here, &there].map(|entry| entry.as_ref().filter(|entry| entry.number == number));
            note_entries(number, from_source, from_target, comparing);
            let (next_here, next_there) = (from_source.is_some(), from_target.is_some());
            if next_here {
                here = source.next().await?;
            }
            if next_there {
                there = target.next().await?;
            }
        }
        let flaws = [source.finish().await?, target.finish().await?];
        let [flaw, same] = flaws;
        flaw.into_iter().for_each(|flaw| comparing.report.find(Side::Source, &"audit log", &flaw));
        same.into_iter()
            .filter(|_| same != flaw)
            .for_each(|flaw| comparing.report.find(Side::Target, &"audit log", &flaw));
        Ok(())
    }

    fn reader<'s>(&'s self, side: Side, store: &'s dyn TokenStore, section: Section) -> Reader<'s> {
        let page = Vec::new().into_iter();
        Reader { side, store, proof: self.proof, section, batch: self.batch, page, after: None, ended: false }
    }
}

fn note_entries(
    number: u64,
    here: Option<&AuditEntry>,
    there: Option<&AuditEntry>,
    comparing: &mut Comparing<'_, '_>,
) {
    let [source, target] = &mut comparing.sums;
    here.into_iter().for_each(|entry| source.add_entry(entry));
    there.into_iter().for_each(|entry| target.add_entry(entry));
    let what = match (here, there) {
        (Some(here), Some(there)) if here != there => "is not as it is in the source",
        (Some(_), None) => "is missing",
        (None, Some(_)) => "is in the target only",
        _ => return,
    };
    comparing.report.find(Side::Target, &format!("audit entry {number}"), &what);
}

/// One side's items of a section, one after the other.
struct Reader<'s> {
    side: Side,
    store: &'s dyn TokenStore,
    proof: &'s AdminProof,
    section: Section,
    batch: u32,
    page: vec::IntoIter<Item>,
    after: Option<Position>,
    ended: bool,
}

impl Reader<'_> {
    async fn next(&mut self, comparing: &mut Comparing<'_, '_>) -> Result<Option<Item>, TransferError> {
        loop {
            let now = comparing.now;
            if let Some(item) = self.page.find(|item| belongs(Step::Compare, item, now)) {
                return Ok(Some(item));
            }
            if self.ended {
                return Ok(None);
            }
            let page = self.store.export(self.proof, self.section, self.after.as_ref(), self.batch).await;
            let page = page.map_err(TransferError::of(self.side))?;
            if self.side == Side::Source {
                comparing.advance(page.looked_at(), page.total);
            }
            comparing.damaged(self.side, page.damaged);
            self.ended = page.next.is_none();
            self.after = page.next;
            self.page = page.items.into_iter();
        }
    }
}

/// One side's audit entries, one after the other, up to the recorded end.
struct LogReader<'s> {
    log: Log<'s>,
    batch: u32,
    ends: ChainEnds,
    chain: Chain,
    page: vec::IntoIter<AuditEntry>,
    at: u64,
}

impl<'s> LogReader<'s> {
    async fn new(log: Log<'s>, batch: u32) -> Result<Self, TransferError> {
        let ends = log.ends().await?;
        let (chain, at) = (Chain::after(ends.anchor), ends.anchor.number);
        Ok(Self { log, batch, ends, chain, page: Vec::new().into_iter(), at })
    }

    async fn next(&mut self) -> Result<Option<AuditEntry>, TransferError> {
        if self.page.len() == 0 {
            self.page = self.log.entries_after(self.at, self.batch).await?.into_iter();
        }
        let entry = self.page.next().filter(|entry| entry.number <= self.ends.head.number);
        if let Some(entry) = &entry {
            self.at = entry.number;
            self.chain.step(entry);
        }
        Ok(entry)
    }

    async fn finish(self) -> Result<Option<crate::store::Broken>, TransferError> {
        let flaw = self.chain.finish(&self.ends.head);
        Ok(flaw.or(self.log.has_unrecorded().await?))
    }
}

/// Which parts of one thing differ.
fn difference(here: &Item, there: &Item) -> String {
    match (here, there) {
        (Item::Token(here), Item::Token(there)) => {
            format!("differs from the source in {}", differing_fields(here, there).join(", "))
        }
        _ => "differs from the source".to_owned(),
    }
}

fn differing_fields(here: &StoredToken, there: &StoredToken) -> Vec<&'static str> {
    let mut fields = Vec::new();
    macro_rules! compare {
        ($($field:ident)+) => {$(
            if here.record.$field != there.record.$field {
                fields.push(stringify!($field));
            }
        )+};
    }
    compare! {
        id digest owner name class scopes roles allowed_ips metadata hint created_at created_ip created_by parent
        limits honeytoken expires_at rolling hard_end disabled_at revoked_at successor revision last_used
        last_used_ip request_count quota_use habits
    }
    if here.warn_from != there.warn_from {
        fields.push("warn_from");
    }
    fields
}
