using Virtbus.Bench;

return args switch
{
    ["block", .. var rest] => await BlockBench.RunAsync(rest),
    ["block-floor", .. var rest] => BlockFloorBench.Run(rest),
    ["serve", .. var rest] => await BlockServe.RunAsync(rest),
    ["core", .. var rest] => await CoreBench.RunAsync(rest),
    ["driver-blk", .. var rest] => await DriverBlkBench.RunAsync(rest),
    ["driver-net", .. var rest] => await DriverNetBench.RunAsync(rest),
    ["guest-disk", .. var rest] => await GuestDiskBench.RunAsync(rest),
    ["interrupts", .. var rest] => await InterruptBench.RunAsync(rest),
    ["legacy", .. var rest] => await LegacyBench.RunAsync(rest),
    ["tree", .. var rest] => await TreeBench.RunAsync(rest),
    ["lookup", .. var rest] => LookupBench.Run(rest),
    ["map", .. var rest] => MapBench.Run(rest),
    ["net-switch", .. var rest] => SwitchBench.Run(rest),
    ["net", .. var rest] => NetBench.Run(rest),
    ["nbd", .. var rest] => await NbdBench.RunAsync(rest),
    ["nbd-serve", .. var rest] => await NbdServe.RunAsync(rest),
    ["poll", .. var rest] => PollBench.Run(rest),
    ["ring", .. var rest] => RingBench.Run(rest),
    ["vfio-user", .. var rest] => await VfioUserBench.RunAsync(rest),
    ["vfio-user-serve", .. var rest] => await VfioUserServe.RunAsync(rest),
    ["vfio-user-load", .. var rest] => VfioUserServe.Load(rest),
    _ => Usage(),
};

static int Usage()
{
    Console.Error.WriteLine("""
        usage: Virtbus.Bench core [--rounds N]
               Virtbus.Bench block [--loadgen COMMAND] [--qsd COMMAND] [--rounds N] [--seconds S] [--root DIR] [--files DIRS]
               Virtbus.Bench block-floor [--fio COMMAND] [--file PATH] [--mebibytes N] [--rounds N] [--seconds S]
               Virtbus.Bench driver-blk [--rounds N] [--seconds S]
               Virtbus.Bench driver-net [--rounds N] [--milliseconds N] [--poll-threads N]
               Virtbus.Bench guest-disk [--program PATH] [--backend KEYS] [--rounds N] [--seconds S]
               Virtbus.Bench interrupts [--rounds N]
               Virtbus.Bench legacy [--rounds N] [--milliseconds N]
               Virtbus.Bench tree [--rounds N] [--milliseconds N] [--devices N] [--threads N]
               Virtbus.Bench lookup [--rounds N]
               Virtbus.Bench map [--rounds N]
               Virtbus.Bench net-switch [--rounds N]
               Virtbus.Bench net [--rounds N] [--milliseconds N] [--poll-threads N] [--testpmd COMMAND]
               Virtbus.Bench nbd [--folder DIR] [--rounds N] [--seconds S] [--fio COMMAND] [--qemu-nbd COMMAND] [--aio MODE]
               Virtbus.Bench nbd-serve SOCKET null|memory|FILE
               Virtbus.Bench poll [--rounds N]
               Virtbus.Bench poll drive own|shared DEPTH SECONDS
               Virtbus.Bench ring [--rounds N]
               Virtbus.Bench vfio-user [--peer COMMAND] [--rounds N] [--seconds S] [--cpu N]
               Virtbus.Bench vfio-user-serve SOCKET
               Virtbus.Bench vfio-user-load read|write|posted|pipelined|map SOCKET SECONDS PID
               Virtbus.Bench serve SOCKET null|memory|FILE [GIBIBYTES [direct]]
        """);
    return 2;
}
