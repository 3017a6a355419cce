//! The start-up taint: taken off the Node once the volumes of its discovery directories are there, so that a pod that
//! needs one is not scheduled before. Leaves every other taint, and every device, alone.

use super::plan::Action;
use super::snapshot::{BackoffKey, OfferStage};
use super::{Ctx, awaited};
use crate::model::reason::Reason;

pub(super) fn remove(ctx: &mut Ctx<'_>) {
    let s = ctx.s;
    let (Some(settings), Some(node)) = (s.discovery_settings(), s.existing_node()) else { return };
    let key = settings.not_ready_taint_key.as_str();
    if !settings.remove_node_not_ready_taint || key.is_empty() {
        return;
    }
    // Of any value and effect.
    let mut taints = node.spec.taints.clone();
    taints.retain(|taint| taint["key"] != key);
    if taints.len() == node.spec.taints.len() || !is_looked_through(ctx) {
        return;
    }
    if let Some(backoff) = s.backing_off(&BackoffKey::Taints) {
        let (until, reason) = (backoff.until, backoff.reason.clone());
        ctx.plan.wake(until);
        let next =
            "grant patch of nodes, as the chart does with removeNodeNotReadyTaint, or take the taint away by hand";
        let name = &s.node_name;
        return ctx.notice(
            Reason::TaintNotRemoved,
            format!("taint {key} of Node {name} cannot be removed and is tried again: {reason}. Next: {next}"),
        );
    }
    let written = s.taints_write.as_ref();
    if written.is_none_or(|write| write.done && write.resource_version != node.metadata.resource_version) {
        ctx.act(Action::SetTaints { seen: Box::new(node.clone()), taints });
    }
}

/// Whether the directories of the settings that hold have been looked through, and what was found is offered. What cannot
/// be offered keeps nobody waiting.
fn is_looked_through(ctx: &Ctx<'_>) -> bool {
    let s = ctx.s;
    let posting = |stage: &OfferStage| matches!(stage, OfferStage::Fresh | OfferStage::Posting | OfferStage::Overtaken);
    let begins = ctx.plan.actions.iter().any(|action| matches!(action, Action::CreatePv { .. }));
    let offers = begins || s.offers.values().any(posting) || !ctx.plan.writes.is_empty();
    s.looked_through_directories() && !offers && awaited(s).is_none()
}
