//! Where an asset stands, and which steps lead from there (ASSET-4): pure functions, so that the database has to hold one answer
//! against them only: that nothing moved meanwhile.

use uuid::Uuid;

use super::{AssetStatus, Condition, TransactionKind};

/// Where an asset stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Custody {
    pub status: AssetStatus,
    pub condition: Condition,
    /// Who holds it: somebody exactly while it is assigned.
    pub employee_id: Option<Uuid>,
    pub location_id: Option<Uuid>,
}

/// What is done to an asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Somebody gets it.
    Assign { employee_id: Uuid },
    /// Its holder gives it back.
    Return { location_id: Option<Uuid>, condition: Option<Condition> },
    /// It goes from its holder to another, to another place, or both.
    Transfer { employee_id: Option<Uuid>, location_id: Option<Uuid> },
    /// Anything else.
    Become { status: AssetStatus, condition: Option<Condition> },
}

/// Why an asset stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the asset is assigned already; have it returned, or transfer it")]
    Assigned,
    #[error("the asset is {0}; only what is in_stock can be assigned")]
    NotInStock(AssetStatus),
    #[error("the asset is broken; have it repaired before it is assigned")]
    Broken,
    #[error("the asset is {0}; only what is assigned can be returned")]
    NotAssigned(AssetStatus),
    #[error("the asset is {0}; only what is assigned can be transferred to somebody else")]
    NotHeld(AssetStatus),
    #[error("the asset is {0}; it is at no place that it could be transferred from")]
    Nowhere(AssetStatus),
    #[error("the asset is there already; name another employee or another location")]
    There,
    #[error("an asset that is {from} cannot become {to}")]
    Status { from: AssetStatus, to: AssetStatus },
    #[error("an asset becomes assigned by being assigned to an employee")]
    AssignInstead,
    #[error("an asset that is assigned becomes in_stock by being returned")]
    ReturnInstead,
    #[error("the condition cannot go from {from} to {to}; it gets better by a repair only, and never new again")]
    Condition { from: Condition, to: Condition },
    #[error("the employee is terminated; assign it to somebody who works here")]
    HolderGone,
    #[error("the location is closed; name an active one")]
    Closed,
    #[error("the asset was changed at the same time; read it again before you decide")]
    Moved,
}

impl AssetStatus {
    /// Whether an asset may go from here to `next` without being assigned or returned. Staying is no change and is refused as well.
    pub fn may_become(self, next: Self) -> bool {
        use AssetStatus::*;
        match self {
            OnOrder => matches!(next, InStock | Retired | Lost | Stolen),
            InStock => matches!(next, InRepair | Retired | Lost | Stolen),
            Assigned => matches!(next, InRepair | Retired | Lost | Stolen),
            InRepair => matches!(next, InStock | Retired | Lost | Stolen),
            // What is found is looked at before somebody gets it.
            Lost => matches!(next, InStock | InRepair | Retired | Stolen),
            Stolen => matches!(next, InStock | InRepair | Retired),
            Retired => false,
        }
    }

    /// Whether nobody has to look after it any more.
    pub fn is_final(self) -> bool {
        self == Self::Retired
    }
}

impl Condition {
    /// Whether a thing may be found in the condition `next`. Only a repair makes it better, and nothing makes it new.
    pub fn may_become(self, next: Self, repaired: bool) -> bool {
        // Best first, so that greater is worse.
        next >= self || (repaired && next != Self::New)
    }
}

impl Step {
    /// What the history calls it.
    pub fn kind(&self) -> TransactionKind {
        match self {
            Self::Assign { .. } => TransactionKind::Assigned,
            Self::Return { .. } => TransactionKind::Returned,
            Self::Transfer { .. } => TransactionKind::Transferred,
            Self::Become { .. } => TransactionKind::StatusChanged,
        }
    }

    /// Who holds the asset afterwards, if the step names somebody.
    pub fn employee_id(&self) -> Option<Uuid> {
        match self {
            Self::Assign { employee_id } => Some(*employee_id),
            Self::Transfer { employee_id, .. } => *employee_id,
            _ => None,
        }
    }

    /// Where the asset is afterwards, if the step says.
    pub fn location_id(&self) -> Option<Uuid> {
        match self {
            Self::Return { location_id, .. } | Self::Transfer { location_id, .. } => *location_id,
            _ => None,
        }
    }
}

impl Custody {
    /// Where the asset stands after the step.
    pub fn after(self, step: &Step) -> Result<Self, Refusal> {
        match *step {
            Step::Assign { employee_id } => match (self.status, self.condition) {
                (AssetStatus::Assigned, _) => Err(Refusal::Assigned),
                (AssetStatus::InStock, Condition::Broken) => Err(Refusal::Broken),
                (AssetStatus::InStock, _) => {
                    Ok(Self { status: AssetStatus::Assigned, employee_id: Some(employee_id), ..self })
                }
                (other, _) => Err(Refusal::NotInStock(other)),
            },
            Step::Return { location_id, condition } => {
                if self.status != AssetStatus::Assigned {
                    return Err(Refusal::NotAssigned(self.status));
                }
                let location_id = location_id.or(self.location_id);
                self.in_condition(condition, AssetStatus::InStock).map(|after| Self { location_id, ..after })
            }
            Step::Transfer { employee_id, location_id } => self.transferred(employee_id, location_id),
            Step::Become { status, condition } => self.becomes(status, condition),
        }
    }

    fn transferred(self, employee_id: Option<Uuid>, location_id: Option<Uuid>) -> Result<Self, Refusal> {
        use AssetStatus::*;
        if employee_id.is_some() && self.status != Assigned {
            return Err(Refusal::NotHeld(self.status));
        }
        if matches!(self.status, Retired | Lost | Stolen) {
            return Err(Refusal::Nowhere(self.status));
        }
        let after = Self {
            employee_id: employee_id.or(self.employee_id),
            location_id: location_id.or(self.location_id),
            ..self
        };
        if after == self { Err(Refusal::There) } else { Ok(after) }
    }

    fn becomes(self, to: AssetStatus, condition: Option<Condition>) -> Result<Self, Refusal> {
        match (self.status, to) {
            (AssetStatus::Assigned, AssetStatus::InStock) => Err(Refusal::ReturnInstead),
            (_, AssetStatus::Assigned) => Err(Refusal::AssignInstead),
            (from, to) if !from.may_become(to) => Err(Refusal::Status { from, to }),
            _ => self.in_condition(condition, to),
        }
    }

    /// In nobody's hands any more.
    fn in_condition(self, condition: Option<Condition>, status: AssetStatus) -> Result<Self, Refusal> {
        let repaired = self.status == AssetStatus::InRepair;
        match condition {
            Some(to) if !self.condition.may_become(to, repaired) => {
                Err(Refusal::Condition { from: self.condition, to })
            }
            condition => Ok(Self { status, condition: condition.unwrap_or(self.condition), employee_id: None, ..self }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANNA: Uuid = Uuid::from_u128(1);
    const BO: Uuid = Uuid::from_u128(2);
    const HERE: Uuid = Uuid::from_u128(3);
    const THERE: Uuid = Uuid::from_u128(4);

    fn standing(status: AssetStatus) -> Custody {
        let employee_id = (status == AssetStatus::Assigned).then_some(ANNA);
        Custody { status, employee_id, location_id: Some(HERE), ..Custody::default() }
    }

    /// ASSET-3, ASSET-4: the whole table of status and step, to be read by a person.
    #[test]
    fn every_status_and_what_may_be_done_in_it() {
        use AssetStatus::*;
        // status: assign, return, transfer to Bo, transfer there; what it may become besides
        let table: [(AssetStatus, [bool; 4], &[AssetStatus]); 7] = [
            (OnOrder, [false, false, false, true], &[InStock, Retired, Lost, Stolen]),
            (InStock, [true, false, false, true], &[InRepair, Retired, Lost, Stolen]),
            (Assigned, [false, true, true, true], &[InRepair, Retired, Lost, Stolen]),
            (InRepair, [false, false, false, true], &[InStock, Retired, Lost, Stolen]),
            (Retired, [false, false, false, false], &[]),
            (Lost, [false, false, false, false], &[InStock, InRepair, Retired, Stolen]),
            (Stolen, [false, false, false, false], &[InStock, InRepair, Retired]),
        ];
        assert_eq!(table.map(|(status, ..)| status).as_slice(), AssetStatus::ALL);
        for (status, may, next) in table {
            let steps = [
                Step::Assign { employee_id: BO },
                Step::Return { location_id: None, condition: None },
                Step::Transfer { employee_id: Some(BO), location_id: None },
                Step::Transfer { employee_id: None, location_id: Some(THERE) },
            ];
            for (step, may) in steps.iter().zip(may) {
                let after = standing(status).after(step);
                assert_eq!(after.is_ok(), may, "{status}: {step:?}: {after:?}");
            }
            for to in AssetStatus::ALL {
                let after = standing(status).after(&Step::Become { status: *to, condition: None });
                assert_eq!(after.is_ok(), next.contains(to), "{status} to {to}: {after:?}");
            }
        }
    }

    /// ASSET-4: whoever holds it, it is assigned to, and nobody else holds anything.
    #[test]
    fn there_is_a_holder_exactly_while_it_is_assigned() {
        for status in AssetStatus::ALL {
            let becomes = AssetStatus::ALL.iter().map(|to| Step::Become { status: *to, condition: None });
            let others = [
                Step::Assign { employee_id: BO },
                Step::Return { location_id: Some(THERE), condition: Some(Condition::Poor) },
                Step::Transfer { employee_id: Some(BO), location_id: Some(THERE) },
            ];
            for step in becomes.chain(others) {
                if let Ok(after) = standing(*status).after(&step) {
                    let assigned = after.status == AssetStatus::Assigned;
                    assert_eq!(after.employee_id.is_some(), assigned, "{status}: {step:?}");
                }
            }
        }
    }

    /// ASSET-4
    #[test]
    fn what_a_step_does_not_name_stays() {
        let held = standing(AssetStatus::Assigned);
        let back = held.after(&Step::Return { location_id: None, condition: None }).unwrap();
        assert_eq!(back, Custody { status: AssetStatus::InStock, employee_id: None, ..held });
        let moved = held.after(&Step::Transfer { employee_id: None, location_id: Some(THERE) }).unwrap();
        assert_eq!(moved, Custody { location_id: Some(THERE), ..held });
        for step in [
            Step::Transfer { employee_id: Some(ANNA), location_id: None },
            Step::Transfer { employee_id: None, location_id: Some(HERE) },
            Step::Transfer { employee_id: None, location_id: None },
        ] {
            assert_eq!(held.after(&step), Err(Refusal::There), "{step:?}");
        }
    }

    /// ASSET-3: the table of conditions.
    #[test]
    fn a_condition_gets_worse_by_itself_and_better_by_a_repair() {
        use Condition::*;
        let may = |repaired| {
            let table = Condition::ALL.iter().map(|from| {
                Condition::ALL.iter().copied().filter(|to| from.may_become(*to, repaired)).collect::<Vec<_>>()
            });
            table.collect::<Vec<_>>()
        };
        let used = [vec![New, Good, Fair, Poor, Broken], vec![Good, Fair, Poor, Broken], vec![Fair, Poor, Broken]];
        assert_eq!(may(false), [&used[..], &[vec![Poor, Broken], vec![Broken]]].concat());
        let repaired = vec![Good, Fair, Poor, Broken];
        assert_eq!(may(true)[1..], [repaired.clone(), repaired.clone(), repaired.clone(), repaired]);
    }

    /// ASSET-3, ASSET-4
    #[test]
    fn what_is_broken_is_repaired_before_somebody_gets_it() {
        let broken = Custody { condition: Condition::Broken, ..standing(AssetStatus::InStock) };
        let assign = Step::Assign { employee_id: ANNA };
        assert_eq!(broken.after(&assign), Err(Refusal::Broken));
        let good = Some(Condition::Good);
        let wished = broken.after(&Step::Become { status: AssetStatus::Lost, condition: good });
        assert_eq!(wished, Err(Refusal::Condition { from: Condition::Broken, to: Condition::Good }));
        let away = broken.after(&Step::Become { status: AssetStatus::InRepair, condition: None }).unwrap();
        let back = away.after(&Step::Become { status: AssetStatus::InStock, condition: good }).unwrap();
        assert!(back.after(&assign).is_ok());
    }

    /// ASSET-4
    #[test]
    fn a_refusal_says_what_to_do_instead() {
        let held = standing(AssetStatus::Assigned);
        let refused = |step| held.after(&step).unwrap_err();
        assert_eq!(refused(Step::Assign { employee_id: BO }), Refusal::Assigned);
        let become_ = |status| refused(Step::Become { status, condition: None });
        assert_eq!(become_(AssetStatus::InStock), Refusal::ReturnInstead);
        assert_eq!(become_(AssetStatus::Assigned), Refusal::AssignInstead);
        assert!(Refusal::Assigned.to_string().contains("transfer"));
    }
}
