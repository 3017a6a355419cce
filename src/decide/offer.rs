//! From clean to offered: what stands against an offer, the name it gets, and the POST that may have been lost.

use super::devices::Devices;
use super::plan::{Action, Word};
use super::snapshot::{BackoffKey, OfferStage, SettingsView, Snapshot};
use super::{Ctx, discovery, in_service, not_in_service, volume};
use crate::kube::objects::PersistentVolume;
use crate::model::device::Protection;
use crate::model::memory::{self, Entry, Owed, State};
use crate::model::names;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// A clean device that waited longer than this for its offer is looked at again: somebody may have put data on it.
/// Longer than a look takes in which a device hangs.
pub(super) const KNOWN_BLANK: Duration = Duration::from_secs(30);

/// The name of the PV that a path would become; `None` where its base name is no text, which no object can be named after.
pub(super) fn pv_name(s: &Snapshot, path: &Path) -> Option<String> {
    let discovered = s.scan.as_ref().and_then(|scan| scan.observations.get(path)?.discovered.as_ref());
    match discovered {
        Some(discovered) => discovery::first_name(s, path, &discovered.class),
        None => volume::pv_name(&s.node_name, path),
    }
}

/// Cleaned: offered, if it may be.
pub(super) fn clean(ctx: &mut Ctx<'_>, entry: &Entry, index: usize) {
    let State::Clean { by } = entry.state else { return };
    if entry.discovered.is_some() {
        return discovery::clean(ctx, entry, index);
    }
    if not_in_service::look_again(ctx, entry, index) {
        return;
    }
    if let Some((word, why)) = blocked(ctx, entry, index) {
        return ctx.say(entry, word, why);
    }
    let Some(settings) = ctx.s.settings() else { return };
    if !by.keeps(settings.cleaning) {
        // Cleaned under settings that promised less.
        return ctx.write(entry, State::Preparing);
    }
    if !ctx.s.known_since(&entry.id, KNOWN_BLANK) {
        ctx.plan.look = true;
        return ctx.say(entry, Word::Clean, "it is looked at once more before it is offered");
    }
    if let Some(backoff) = ctx.s.backing_off(&BackoffKey::Offer(entry.id.clone())) {
        let (until, reason) = (backoff.until, backoff.reason.clone());
        ctx.plan.wake(until);
        return ctx.say(entry, Word::Clean, format!("offering it failed and is tried again: {reason}"));
    }
    let Some(path) = path_of(ctx, index).map(Path::to_path_buf) else { return };
    let Some(pv) = volume::pv_name(&ctx.s.node_name, &path) else { return };
    let promise = settings.cleaning;
    let state = State::Offering { pv, offer_id: ctx.draw(32) };
    let evidence = memory::evidence(ctx.devices.groups[index].device, &ctx.s.boot_id);
    let since = ctx.s.wall.clone();
    ctx.plan.writes.push(Entry { state, path, promise, evidence, since, progress: None, ..entry.clone() });
}

/// The path under which it would be offered: the first that the settings select.
fn path_of<'a>(ctx: &Ctx<'a>, index: usize) -> Option<&'a Path> {
    ctx.devices.groups[index].selected.first().copied()
}

/// What stops every device that was never offered, and this one in particular.
pub(super) fn stop_first(ctx: &Ctx<'_>, index: usize, path: &Path) -> Option<(Word, String)> {
    if ctx.s.settings().is_none() {
        let why = match &ctx.s.settings {
            SettingsView::Waiting => "the PV spec ConfigMap has not been read yet".to_owned(),
            SettingsView::Unset => "no PV spec ConfigMap is named".to_owned(),
            SettingsView::Missing { configmap } => format!("ConfigMap {configmap} does not exist"),
            SettingsView::Invalid { configmap, .. } => format!("ConfigMap {configmap} has errors"),
            SettingsView::Off => "raw devices are not among the --sources".to_owned(),
            SettingsView::Ready { .. } => return None,
        };
        return Some((Word::Waiting, why));
    }
    let Some(node) = ctx.s.existing_node() else {
        return Some((Word::Waiting, format!("Node {} does not exist", ctx.s.node_name)));
    };
    if node.metadata.deletion_timestamp.is_some() {
        return Some((Word::Waiting, format!("Node {} is being deleted", ctx.s.node_name)));
    }
    if let Some((pv, mismatch)) = &ctx.mismatch {
        let why = format!("PersistentVolume {pv} was made with other settings ({mismatch}); no new ones beside it");
        return Some((Word::Waiting, why));
    }
    name_taken(ctx, index, path).map(|why| (Word::Error, why))
}

/// The first PV of ours that was made with other settings, or without any.
pub(super) fn settings_mismatch(s: &Snapshot) -> Option<(&str, String)> {
    let settings = s.settings()?;
    let raw = s.pvs.iter().flat_map(|pvs| pvs.values()).filter(|pv| !discovery::is_discovered(pv));
    raw.into_iter().find_map(|pv| {
        let mismatch = settings.mismatch(&pv.metadata.annotations)?;
        Some((pv.metadata.name.as_str(), mismatch))
    })
}

/// Different device names may fold to one PV name: the one that has the PV keeps it, else the first by path.
fn name_taken(ctx: &Ctx<'_>, index: usize, path: &Path) -> Option<String> {
    let Some(name) = volume::pv_name(&ctx.s.node_name, path) else {
        return Some("its name is not UTF-8, so no PersistentVolume can be named after it".to_owned());
    };
    let Some(text) = path.to_str() else {
        return Some("its path is not UTF-8, so no PersistentVolume can name it".to_owned());
    };
    if let Some(pv) = ctx.s.pv(&name) {
        let theirs = pv.spec.local.as_ref().map_or("no local path", |local| local.path.as_str());
        return (theirs != text).then(|| format!("the PV name {name} is taken by {theirs}"));
    }
    let own = ctx.devices.groups[index].entry;
    let promised = ctx.offers.get(name.as_str()).filter(|entry| Some(&entry.id) != own);
    if let Some(other) = promised {
        return Some(format!("the PV name {name} is taken by {}", other.path.display()));
    }
    let first = ctx.first_of_name.get(&name).filter(|first| **first != path)?;
    let same_device = ctx.devices.at_path(first) == Some(index);
    (!same_device).then(|| format!("{} folds to the same PV name {name} and comes first", first.display()))
}

/// For each PV name the first selected path, one a device, that folds to it.
pub(super) fn first_of_name<'a>(s: &Snapshot, devices: &Devices<'a>) -> BTreeMap<String, &'a Path> {
    let mut first: BTreeMap<String, &Path> = BTreeMap::new();
    for path in devices.groups.iter().filter_map(|group| group.selected.first().copied()) {
        if let Some(name) = pv_name(s, path) {
            let known = first.entry(name).or_insert(path);
            *known = (*known).min(path);
        }
    }
    first
}

/// A POST may have reached the server.
pub(super) fn offering(ctx: &mut Ctx<'_>, entry: &Entry, index: usize, name: &str, offer_id: &str) {
    if answered(ctx, entry, name, offer_id) {
        return;
    }
    let key = BackoffKey::Offer(entry.id.clone());
    match ctx.s.offers.get(&entry.id) {
        Some(OfferStage::Posting | OfferStage::Overtaken) => {
            ctx.say(entry, Word::Offering, format!("creating PersistentVolume {name}"));
        }
        Some(OfferStage::Refused) => ctx.write(entry, State::Clean { by: entry.promise }),
        Some(OfferStage::Fresh) => {
            let Some(pv) = new_volume(ctx, entry, index, name, offer_id) else {
                // Nothing was posted yet by anyone: back to clean until there are settings again.
                return ctx.write(entry, State::Clean { by: entry.promise });
            };
            ctx.act(Action::CreatePv { entry: entry.id.clone(), pv: Box::new(pv) });
            ctx.say(entry, Word::Offering, format!("creating PersistentVolume {name}"));
        }
        None => {
            if let Some(backoff) = ctx.s.backing_off(&key) {
                let (until, reason) = (backoff.until, backoff.reason.clone());
                ctx.plan.wake(until);
                return ctx.say(entry, Word::Offering, format!("not answered yet: {reason}"));
            }
            in_service::gone_without_release(ctx, entry, Some(index));
        }
    }
}

/// The PV of an offer, if what it is made from is there still.
fn new_volume(ctx: &Ctx<'_>, entry: &Entry, index: usize, name: &str, offer_id: &str) -> Option<PersistentVolume> {
    if entry.discovered.is_some() {
        return discovery::new_volume(ctx, entry, index, name, offer_id);
    }
    let (settings, node, path) = (ctx.s.settings()?, ctx.s.existing_node()?, entry.path.to_str()?);
    let device = ctx.devices.groups[index].device;
    Some(volume::persistent_volume(ctx.s, node, settings, device, path, name, offer_id))
}

/// Whether the PV of an offer turned up, by name and offer id, or went away again.
pub(super) fn answered(ctx: &mut Ctx<'_>, entry: &Entry, name: &str, offer_id: &str) -> bool {
    let has_id =
        |pv: &&PersistentVolume| pv.metadata.annotations.get(names::OFFER_ANNOTATION).is_some_and(|id| id == offer_id);
    if let Some(pv) = ctx.s.pv(name).filter(has_id) {
        let state = in_service::state_of(pv, Some(entry));
        ctx.write(entry, state);
        return true;
    }
    let released = ctx
        .s
        .vanished
        .values()
        .any(|gone| gone.name == name && gone.released && gone.offer_id.as_deref() == Some(offer_id));
    if released {
        ctx.write(entry, State::Dirty { owed: Owed::Release, pv_name: Some(name.to_owned()) });
    }
    released
}

/// What stops a blank or clean device on its way to an offer.
pub(super) fn blocked(ctx: &Ctx<'_>, entry: &Entry, index: usize) -> Option<(Word, String)> {
    let group = &ctx.devices.groups[index];
    let Some(path) = path_of(ctx, index) else {
        return Some((Word::Clean, "the settings do not select it".to_owned()));
    };
    if let Some(problem) = &group.problem {
        return Some((Word::Error, problem.clone()));
    }
    if let Some(protection @ (Protection::PartitionType { .. } | Protection::HasPartitions { .. })) =
        &group.device.protection
    {
        return Some((Word::Refused, protection.to_string()));
    }
    if let Some(in_use) = &group.device.in_use
        && ctx.s.looked_since_change(&entry.id)
    {
        return Some((Word::InUse, in_use.to_string()));
    }
    stop_first(ctx, index, path)
}
