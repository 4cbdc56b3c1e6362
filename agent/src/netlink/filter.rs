//! Filters of an interface's ingress hook (`RTM_*TFILTER`, tc(8)).

use super::{Error, Handle, Netlink};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{
        TcActionAttribute, TcActionMirrorOption, TcActionOption, TcAttribute, TcFilterU32Option, TcHandle, TcMessage, TcMirrorActionType,
        TcOption,
    },
};
use nix::errno::Errno;

/// Parent of the filters that received packets meet, under an ingress qdisc and under clsact alike (`TC_H_CLSACT`, `TC_H_MIN_INGRESS`).
pub const INGRESS_HOOK: Handle = Handle(0xffff_fff2);

/// `ETH_P_ALL` (include/uapi/linux/if_ether.h).
const ETH_P_ALL: u16 = 0x0003;

/// A filter of an ingress hook, as the kernel shows it. A u32 filter shows as several entries: itself and its hash tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Index of its interface.
    pub ifindex: u32,
    /// Its place among the filters (`pref`): the lower the earlier.
    pub priority: u16,
    /// What it is.
    pub kind: String,
    /// Index of the interface that it redirects packets to, where it is a u32 filter that does.
    pub redirects_to: Option<u32>,
}

impl Filter {
    /// As the kernel tells of it; none where an answer is about something else.
    #[must_use]
    pub fn from_answer(answer: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewTrafficFilter(message) = answer else { return None };
        let mut filter =
            Self { ifindex: message.header.index.cast_unsigned(), priority: TcHandle::from(message.header.info).major, ..Self::default() };
        for attribute in &message.attributes {
            match attribute {
                TcAttribute::Kind(kind) => filter.kind.clone_from(kind),
                TcAttribute::Options(options) => filter.redirects_to = options.iter().find_map(redirect_target),
                _ => {}
            }
        }
        Some(filter)
    }
}

fn redirect_target(option: &TcOption) -> Option<u32> {
    let TcOption::U32(TcFilterU32Option::Action(actions)) = option else { return None };
    let attributes = actions.iter().flat_map(|action| &action.attributes);
    let options = attributes.filter_map(|attribute| if let TcActionAttribute::Options(options) = attribute { Some(options) } else { None });
    options.flatten().find_map(|option| match option {
        TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror)) if mirror.eaction == TcMirrorActionType::EgressRedir => {
            Some(mirror.ifindex)
        }
        _ => None,
    })
}

fn message(ifindex: u32, priority: u16) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = TcHandle::from(INGRESS_HOOK.0);
    message.header.info = TcHandle { major: priority, minor: ETH_P_ALL.to_be() }.into();
    message
}

impl Netlink {
    /// The filters that packets received on an interface meet.
    ///
    /// # Errors
    /// As any request (see [`Error`]).
    pub fn ingress_filters(&self, ifindex: u32) -> Result<Vec<Filter>, Error> {
        let mut message = message(ifindex, 0);
        message.header.info = 0;
        let answers = self.dump(&RouteNetlinkMessage::GetTrafficFilter(message))?;
        Ok(answers.iter().filter_map(Filter::from_answer).collect())
    }

    /// Sends every packet that an interface receives through another one first: `u32 match u8 0 0 action mirred egress redirect dev …`. u32 and mirred are
    /// what every kernel since long before netem's ifb has.
    ///
    /// # Errors
    /// As any request (see [`Error`]).
    pub fn add_redirect(&self, ifindex: u32, priority: u16, to: u32) -> Result<(), Error> {
        // The protocol after the priority, which sets one too.
        let filter =
            self.handle.traffic_filter(ifindex.cast_signed()).add().parent(INGRESS_HOOK.0).priority(priority).protocol(ETH_P_ALL.to_be());
        self.request(async { filter.redirect(to)?.execute().await })
    }

    /// Removes all filters of a priority from an interface's ingress hook. None there is fine.
    ///
    /// # Errors
    /// As any request (see [`Error`]).
    pub fn delete_filters(&self, ifindex: u32, priority: u16) -> Result<(), Error> {
        match self.change(RouteNetlinkMessage::DelTrafficFilter(message(ifindex, priority)), 0) {
            // EINVAL: the qdisc that they hung on is gone, and they with it.
            Err(error) if matches!(error.errno(), Some(Errno::ENODEV | Errno::ENOENT | Errno::EINVAL)) => Ok(()),
            answer => answer,
        }
    }
}
