# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_netloss_agent_global_optspecs
    string join \n log= json h/help V/version
end

function __fish_netloss_agent_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_netloss_agent_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_netloss_agent_using_subcommand
    set -l cmd (__fish_netloss_agent_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c netloss-agent -n "__fish_netloss_agent_needs_command" -l log -d 'How much to say on standard error: error, warn, info, debug, trace' -r
complete -c netloss-agent -n "__fish_netloss_agent_needs_command" -l json -d 'Print JSON, one object a line, as run does anyway where standard output is no terminal'
complete -c netloss-agent -n "__fish_netloss_agent_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c netloss-agent -n "__fish_netloss_agent_needs_command" -s V -l version -d 'Print version'
complete -c netloss-agent -n "__fish_netloss_agent_needs_command" -f -a "run" -d 'Lose packets until the ttl or the deadline is over, or SIGTERM, SIGINT, SIGHUP or SIGQUIT comes'
complete -c netloss-agent -n "__fish_netloss_agent_needs_command" -f -a "plan" -d 'Show what run would do with these arguments, and change nothing'
complete -c netloss-agent -n "__fish_netloss_agent_needs_command" -f -a "check" -d 'Show whether loss would work here, and what to do where it would not. Changes nothing'
complete -c netloss-agent -n "__fish_netloss_agent_needs_command" -f -a "status" -d 'Show the agent that works in this network namespace, and how its loss goes. Needs no capability'
complete -c netloss-agent -n "__fish_netloss_agent_needs_command" -f -a "stop" -d 'Ask the agent that works in this network namespace to end, and wait for it. Needs no capability; fine where there is none'
complete -c netloss-agent -n "__fish_netloss_agent_needs_command" -f -a "cleanup" -d 'Remove what an agent that was killed left in this network namespace. Fine where nothing is left'
complete -c netloss-agent -n "__fish_netloss_agent_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l loss -d 'Share of packets to lose, in percent: above 0, up to 100. Needed by the models random and gilbert' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l correlation -d 'Correlation of losses, in percent: how much one packet\'s fate depends on the last one\'s (model random; lowers the effective loss)' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l model -d 'How packets are chosen: "random"; "gilbert" in bursts, with --burst; "gemodel P R 1-H 1-K" and "state P13 P31 P32 P23 P14" as tc-netem(8) has them, in percent' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l burst -d 'How many packets are lost in a row on average: 1 to 1000 (model gilbert)' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l direction -d 'Which way packets are lost, seen from this network namespace' -r -f -a "egress\t'Packets that the pod sends'
ingress\t'Packets that the pod receives'
both\t'Both: a round trip is lost more often than either percentage says'"
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l seed -d 'Seed of netem\'s random numbers, for losing the same packets again; what is received has the seed N + 1. Needs Linux 6.7' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l target -d 'Lose only packets to and from CIDR[:PORT[-PORT]][/PROTO], such as 10.0.0.0/8:443/tcp, [2001:db8::/32]:80-90 or any:53/udp; repeatable' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l spare -d 'Never lose packets to and from these, in the same form, whatever the targets say; repeatable' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l spare-node -d 'Never lose packets to and from the node, so that the kubelet\'s probes pass: its addresses, and with them the default gateways' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l ttl -d 'How long the loss lasts once applied: 1s to 168h, such as 90s, 2m or 1h30m' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l deadline -d 'When the loss ends at the latest, by this node\'s clock (RFC 3339); after it, nothing is changed' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l run -d 'Name of this run, echoed in every report' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l interface -d 'Interface to act on, instead of the one that the default route leaves by' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l backend -d 'How the loss is put into the kernel, and so what ends it when the agent cannot' -r -f -a "auto\t'The best that works here'
guarded\t'Guarded by the kernel: a killed agent leaves no loss'
tc\t'Plain netem qdiscs: a killed agent leaves the loss in place'"
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l heartbeat -d 'How often to report that the loss is in place' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l log -d 'How much to say on standard error: error, warn, info, debug, trace' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l per-segment -d 'Lose TCP segments one by one where segmentation offload hands over many as one packet; the interface\'s settings stay'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l spare-neighbour -d 'Never lose ARP and NDP, by which the namespace finds its neighbours'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l allow-host-network -d 'Work even where the network namespace looks like a host\'s: every pod and service on it is then hit'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -l json -d 'Print JSON, one object a line, as run does anyway where standard output is no terminal'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l loss -d 'Share of packets to lose, in percent: above 0, up to 100. Needed by the models random and gilbert' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l correlation -d 'Correlation of losses, in percent: how much one packet\'s fate depends on the last one\'s (model random; lowers the effective loss)' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l model -d 'How packets are chosen: "random"; "gilbert" in bursts, with --burst; "gemodel P R 1-H 1-K" and "state P13 P31 P32 P23 P14" as tc-netem(8) has them, in percent' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l burst -d 'How many packets are lost in a row on average: 1 to 1000 (model gilbert)' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l direction -d 'Which way packets are lost, seen from this network namespace' -r -f -a "egress\t'Packets that the pod sends'
ingress\t'Packets that the pod receives'
both\t'Both: a round trip is lost more often than either percentage says'"
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l seed -d 'Seed of netem\'s random numbers, for losing the same packets again; what is received has the seed N + 1. Needs Linux 6.7' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l target -d 'Lose only packets to and from CIDR[:PORT[-PORT]][/PROTO], such as 10.0.0.0/8:443/tcp, [2001:db8::/32]:80-90 or any:53/udp; repeatable' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l spare -d 'Never lose packets to and from these, in the same form, whatever the targets say; repeatable' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l spare-node -d 'Never lose packets to and from the node, so that the kubelet\'s probes pass: its addresses, and with them the default gateways' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l ttl -d 'How long the loss lasts once applied: 1s to 168h, such as 90s, 2m or 1h30m' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l deadline -d 'When the loss ends at the latest, by this node\'s clock (RFC 3339); after it, nothing is changed' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l run -d 'Name of this run, echoed in every report' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l interface -d 'Interface to act on, instead of the one that the default route leaves by' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l backend -d 'How the loss is put into the kernel, and so what ends it when the agent cannot' -r -f -a "auto\t'The best that works here'
guarded\t'Guarded by the kernel: a killed agent leaves no loss'
tc\t'Plain netem qdiscs: a killed agent leaves the loss in place'"
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l heartbeat -d 'How often to report that the loss is in place' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l log -d 'How much to say on standard error: error, warn, info, debug, trace' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l per-segment -d 'Lose TCP segments one by one where segmentation offload hands over many as one packet; the interface\'s settings stay'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l spare-neighbour -d 'Never lose ARP and NDP, by which the namespace finds its neighbours'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l allow-host-network -d 'Work even where the network namespace looks like a host\'s: every pod and service on it is then hit'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -l json -d 'Print JSON, one object a line, as run does anyway where standard output is no terminal'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand plan" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand check" -l interface -d 'Interface to look at, instead of the one that the default route leaves by' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand check" -l log -d 'How much to say on standard error: error, warn, info, debug, trace' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand check" -l json -d 'Print JSON, one object a line, as run does anyway where standard output is no terminal'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand check" -s h -l help -d 'Print help'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand status" -l log -d 'How much to say on standard error: error, warn, info, debug, trace' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand status" -l watch -d 'Show it again each second, until it has ended'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand status" -l json -d 'Print JSON, one object a line, as run does anyway where standard output is no terminal'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand status" -s h -l help -d 'Print help'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand stop" -l run -d 'Do nothing to an agent of another run' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand stop" -l deadline -d 'Do nothing after this time, by this node\'s clock (RFC 3339)' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand stop" -l timeout -d 'How long to wait for its end: 1s to 168h' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand stop" -l log -d 'How much to say on standard error: error, warn, info, debug, trace' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand stop" -l json -d 'Print JSON, one object a line, as run does anyway where standard output is no terminal'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand stop" -s h -l help -d 'Print help'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand cleanup" -l run -d 'Do nothing to an agent of another run' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand cleanup" -l deadline -d 'Do nothing after this time, by this node\'s clock (RFC 3339)' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand cleanup" -l log -d 'How much to say on standard error: error, warn, info, debug, trace' -r
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand cleanup" -l force -d 'Also where an agent works here that does not answer: one that hangs'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand cleanup" -l json -d 'Print JSON, one object a line, as run does anyway where standard output is no terminal'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand cleanup" -s h -l help -d 'Print help'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand help; and not __fish_seen_subcommand_from run plan check status stop cleanup help" -f -a "run" -d 'Lose packets until the ttl or the deadline is over, or SIGTERM, SIGINT, SIGHUP or SIGQUIT comes'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand help; and not __fish_seen_subcommand_from run plan check status stop cleanup help" -f -a "plan" -d 'Show what run would do with these arguments, and change nothing'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand help; and not __fish_seen_subcommand_from run plan check status stop cleanup help" -f -a "check" -d 'Show whether loss would work here, and what to do where it would not. Changes nothing'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand help; and not __fish_seen_subcommand_from run plan check status stop cleanup help" -f -a "status" -d 'Show the agent that works in this network namespace, and how its loss goes. Needs no capability'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand help; and not __fish_seen_subcommand_from run plan check status stop cleanup help" -f -a "stop" -d 'Ask the agent that works in this network namespace to end, and wait for it. Needs no capability; fine where there is none'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand help; and not __fish_seen_subcommand_from run plan check status stop cleanup help" -f -a "cleanup" -d 'Remove what an agent that was killed left in this network namespace. Fine where nothing is left'
complete -c netloss-agent -n "__fish_netloss_agent_using_subcommand help; and not __fish_seen_subcommand_from run plan check status stop cleanup help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
