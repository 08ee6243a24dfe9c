using Virtbus.Transports.VhostUser;
using Virtbus.Wire.VhostUser;
using static Virtbus.Wire.VhostUser.VhostUserRequest;
using static Virtbus.Tests.FrontEnd;

namespace Virtbus.Tests.Transports.VhostUser;

/// <summary>One request of a recorded sequence; addresses are those of the front end that replays it.</summary>
internal readonly record struct SeedMessage(VhostUserRequest Request, uint Flags, byte[] Payload, SeedDescriptor Descriptor = SeedDescriptor.None);

/// <summary>The descriptor that goes with a message.</summary>
internal enum SeedDescriptor
{
    None,
    Memory,
    Kick,
    Call,
}

/// <summary>The order in which real front ends were seen to send their requests.</summary>
internal static class SeedSequences
{
    private static readonly byte[] Region0 = Region(GuestBase, MemorySize, UserBase);

    /// <summary>libblkio 1.5: features before protocol features, an acknowledgement wanted for everything after those.</summary>
    internal static SeedMessage[] Libblkio(FrontEnd front) =>
    [
        new(SET_OWNER, 1, []),
        new(GET_FEATURES, 1, []),
        new(SET_FEATURES, 1, Number(0x160001a44)),
        new(GET_PROTOCOL_FEATURES, 1, []),
        new(SET_PROTOCOL_FEATURES, 1, Number(0x8209)),
        new(GET_QUEUE_NUM, 9, []),
        new(GET_MAX_MEM_SLOTS, 9, []),
        new(GET_CONFIG, 9, [.. State(0, 60), .. new byte[64]]),
        new(ADD_MEM_REG, 9, Region0, SeedDescriptor.Memory),
        new(SET_VRING_NUM, 9, State(0, RingSize)),
        new(SET_VRING_BASE, 9, State(0, 0)),
        new(SET_VRING_ADDR, 9, front.RingAddress()),
        new(SET_VRING_KICK, 9, Number(0), SeedDescriptor.Kick),
        new(SET_VRING_CALL, 9, Number(0), SeedDescriptor.Call),
        new(SET_VRING_ENABLE, 9, State(0, 1)),
        new(ADD_MEM_REG, 9, Region(0x9000_0000, 0x20000, 0x9000_0000), SeedDescriptor.Memory),
    ];

    /// <summary>QEMU 7.2 and 11.1: two driver starts, the first by the firmware.</summary>
    internal static SeedMessage[] Qemu(FrontEnd front) =>
    [
        new(GET_FEATURES, 1, []),
        new(GET_PROTOCOL_FEATURES, 1, []),
        new(SET_PROTOCOL_FEATURES, 1, Number(0x8228 | 1 | 1 << 13 | 1 << 16)),
        new(GET_QUEUE_NUM, 1, []),
        new(GET_MAX_MEM_SLOTS, 1, []),
        new(SET_BACKEND_REQ_FD, 9, [], SeedDescriptor.Call),
        new(SET_OWNER, 1, []),
        new(SET_VRING_CALL, 9, Number(0), SeedDescriptor.Call),
        new(SET_VRING_ERR, 9, Number(0), SeedDescriptor.Call),
        new(GET_CONFIG, 1, [.. State(0, 57), .. new byte[61]]),
        new(SET_FEATURES, 1, Number(0x140000044)),
        new(SET_VRING_CALL, 9, Number(0), SeedDescriptor.Call),
        new(ADD_MEM_REG, 9, Region0, SeedDescriptor.Memory),
        new(SET_VRING_NUM, 1, State(0, RingSize)),
        new(SET_VRING_BASE, 1, State(0, 0)),
        new(SET_VRING_ADDR, 1, front.RingAddress()),
        new(SET_VRING_KICK, 9, Number(0), SeedDescriptor.Kick),
        new(SET_VRING_ENABLE, 9, State(0, 1)),
        new(SET_VRING_ENABLE, 9, State(0, 0)),
        new(GET_VRING_BASE, 1, State(0, 0)),
        new(SET_STATUS, 9, Number(0)),
        new(SET_FEATURES, 1, Number(0x170000e44 & ~0x400UL)),
        new(SET_VRING_NUM, 1, State(0, RingSize)),
        new(SET_VRING_BASE, 1, State(0, 0)),
        new(SET_VRING_ADDR, 1, front.RingAddress()),
        new(SET_VRING_KICK, 9, Number(0), SeedDescriptor.Kick),
        new(SET_VRING_ENABLE, 9, State(0, 1)),
        new(RESET_DEVICE, 9, []),
    ];

    /// <summary>DPDK 24.11 virtio-user: call before features, a memory table, status, a left-over number in GET_VRING_BASE.</summary>
    internal static SeedMessage[] Dpdk(FrontEnd front) =>
    [
        new(SET_OWNER, 1, []),
        new(GET_FEATURES, 1, []),
        new(GET_PROTOCOL_FEATURES, 1, []),
        new(SET_PROTOCOL_FEATURES, 1, Number(0x10009)),
        new(SET_VRING_CALL, 9, Number(0), SeedDescriptor.Call),
        new(SET_VRING_CALL, 9, Number(1), SeedDescriptor.Call),
        new(SET_FEATURES, 9, Number(0x140000000)),
        new(SET_STATUS, 9, Number(0xb)),
        new(GET_STATUS, 1, []),
        new(SET_MEM_TABLE, 9, [.. Number(1), .. Region0[8..]], SeedDescriptor.Memory),
        new(SET_VRING_NUM, 9, State(0, RingSize)),
        new(SET_VRING_BASE, 9, State(0, 0)),
        new(SET_VRING_ADDR, 9, front.RingAddress()),
        new(SET_VRING_KICK, 9, Number(0), SeedDescriptor.Kick),
        new(SET_VRING_ENABLE, 9, State(0, 1)),
        new(SET_VRING_ENABLE, 9, State(1, 1)),
        new(SET_STATUS, 9, Number(0xf)),
        new(SET_VRING_ENABLE, 9, State(0, 0)),
        new(SET_VRING_ENABLE, 9, State(1, 0)),
        new(GET_VRING_BASE, 1, State(0, 1)),
    ];
}
