using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Ethernet;
using Virtbus.Models.VirtioBlk;
using Virtbus.Models.VirtioNet;
using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Tests.Hardware.Virtio;
using Virtbus.Virtio;
using Virtbus.Virtio.Admin;
using static Virtbus.Tests.Hardware.Admin.AdminObjectTests;
using static Virtbus.Virtio.Admin.AdminOpcode;
using static Virtbus.Virtio.Admin.AdminQualifier;
using static Virtbus.Virtio.Admin.AdminStatus;
using static Virtbus.Virtio.Admin.DevicePart;

namespace Virtbus.Tests.Hardware.Admin;

/// <summary>Parts of a virtual function's state, and its mode (VIRTIO 1.4, 2.12.1.4 and 2.14).</summary>
public sealed class AdminPartTests
{
    private const ushort Members = AdminRig.Members;
    private const uint Get = 0, Set = 1;
    private const int Room = 0x4000;
    private static readonly AdminAnswer Busy = new(VIRTIO_ADMIN_STATUS_EBUSY, VIRTIO_ADMIN_STATUS_Q_INVALID_COMMAND);

    // 2.12.1.4: in the order of the standard's table, all of them, as often as they are asked for.
    [Fact]
    public void Parts_are_in_the_standard_s_order_and_say_what_the_registers_say()
    {
        using var rig = Rig();
        var vf = rig.Vf(0);
        vf.EnableMsix();
        vf.Start(vector: 2);
        var all = All(rig, 1);
        Assert.Equal(all, All(rig, 1));
        var parts = Split(all);
        Assert.Equal(parts.Select(static p => (p.Part.Type, p.Part.Selector)), parts.Select(static p => (p.Part.Type, p.Part.Selector)).Order());
        Assert.Equal(
            [
                VIRTIO_DEV_PART_DEV_FEATURES, VIRTIO_DEV_PART_DRV_FEATURES, VIRTIO_DEV_PART_PCI_COMMON_CFG, VIRTIO_DEV_PART_DEVICE_STATUS, VIRTIO_DEV_PART_VQ_CFG, VIRTIO_DEV_PART_VQ_NOTIFY_CFG,
                WholeState,
            ],
            parts.Select(static p => p.Part.Type).Distinct());
        Assert.All(parts, static p => Assert.Equal(p.Part.Type == VIRTIO_DEV_PART_DEV_FEATURES ? Optional : 0, p.Part.Flags));
        Assert.Equal(vf.Driver.DeviceFeatures.Low, BinaryPrimitives.ReadUInt64LittleEndian(Find(parts, VIRTIO_DEV_PART_DEV_FEATURES)));
        Assert.Equal(vf.Driver.DriverFeatures.Low, BinaryPrimitives.ReadUInt64LittleEndian(Find(parts, VIRTIO_DEV_PART_DRV_FEATURES)));
        Assert.Equal([vf.Driver.Status], Find(parts, VIRTIO_DEV_PART_DEVICE_STATUS));
        Assert.Equal([2, 0], Find(parts, VIRTIO_DEV_PART_PCI_COMMON_CFG, VirtioCommonConfig.num_queues));
        Assert.Equal([0xFF, 0xFF], Find(parts, VIRTIO_DEV_PART_PCI_COMMON_CFG, VirtioCommonConfig.config_msix_vector));
        var queue = Find(parts, VIRTIO_DEV_PART_VQ_CFG, 0);
        Assert.Equal([16, 0, 2, 0, 1, 0, 0, 0], queue[..8]);
        var layout = vf.Ring!.Layout;
        Assert.Equal(
            (layout.DescriptorArea.Value, layout.DriverArea.Value, layout.DeviceArea.Value),
            (BinaryPrimitives.ReadUInt64LittleEndian(queue.AsSpan(8)), BinaryPrimitives.ReadUInt64LittleEndian(queue.AsSpan(16)), BinaryPrimitives.ReadUInt64LittleEndian(queue.AsSpan(24))));
        Assert.Equal([0, 4, 0xFF, 0xFF, 0, 0, 0, 0], Find(parts, VIRTIO_DEV_PART_VQ_CFG, 1)[..8]);
        Assert.Equal([1, 0, 1, 0, 0, 0, 0, 0], Find(parts, VIRTIO_DEV_PART_VQ_NOTIFY_CFG, 1));
        // It goes on.
        vf.OfferSector(2);
        Assert.Equal(AdminVf.Sector(2), vf.AwaitSector());
    }

    [Fact]
    public void Metadata_says_size_count_and_headers_and_what_has_no_room()
    {
        using var rig = Rig();
        var all = All(rig, 1);
        var parts = Split(all);
        Assert.Equal((ulong)all.Length, BinaryPrimitives.ReadUInt64LittleEndian(Metadata(rig, 0, 8)));
        Assert.Equal((ulong)parts.Count, BinaryPrimitives.ReadUInt64LittleEndian(Metadata(rig, 1, 64)));
        var list = Metadata(rig, 2, 8 + (16 * parts.Count));
        Assert.Equal((ulong)parts.Count, BinaryPrimitives.ReadUInt64LittleEndian(list));
        for (var i = 0; i < parts.Count; i++)
            Assert.Equal(parts[i].Part, Read(list.AsSpan(8 + (16 * i))));
        foreach (var (type, room) in ((byte, int)[])[(0, 7), (1, 0), (2, 7 + (16 * parts.Count))])
            rig.Refused(AdminAnswer.NoRoom, VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET, Members, 1, [.. Header(Get), type, 0, 0, 0, 0, 0, 0, 0], room);
        rig.Refused(AdminAnswer.NoRoom, VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, 1, [.. Header(Get), 1, 0, 0, 0, 0, 0, 0, 0], all.Length - 1);
        Assert.Equal(all, rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, 1, [.. Header(Get), 1, 0, 0, 0, 0, 0, 0, 0], all.Length));
        rig.Refused(AdminAnswer.InvalidField, VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET, Members, 1, [.. Header(Get), 3], 64);
        rig.Refused(AdminAnswer.InvalidField, VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, 1, [.. Header(Get), 2], 64);
    }

    // 2.12.1.4: those that were selected, in the device's order; one that there is not is passed over.
    [Fact]
    public void Parts_are_selected()
    {
        using var rig = Rig();
        var parts = Split(All(rig, 1));
        byte[] wanted =
        [
            .. Name(VIRTIO_DEV_PART_VQ_CFG, 1), .. Name(0x7FF, 0), .. Name(VIRTIO_DEV_PART_DEVICE_STATUS, 0), .. Name(VIRTIO_DEV_PART_VQ_CFG, 2), .. Name(VIRTIO_DEV_PART_DEVICE_STATUS, 0),
            .. Name(VIRTIO_DEV_PART_PCI_COMMON_CFG, 0x3C), 4, 1,
        ];
        var some = Split(rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, 1, [.. Header(Get), 0, 0, 0, 0, 0, 0, 0, 0, .. wanted], Room));
        Assert.Equal([VIRTIO_DEV_PART_DEVICE_STATUS, VIRTIO_DEV_PART_VQ_CFG], some.Select(static p => p.Part.Type));
        Assert.Equal(Find(parts, VIRTIO_DEV_PART_VQ_CFG, 1), some[1].Value);
        Assert.Empty(rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, 1, [.. Header(Get), 0, 0, 0, 0, 0, 0, 0, 0], Room));
    }

    // 2.12.1.4: an object is for one or the other, and of one function.
    [Fact]
    public void Commands_want_an_object_of_their_kind()
    {
        using var rig = Rig();
        foreach (var opcode in (ReadOnlySpan<ushort>)[VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET, VIRTIO_ADMIN_CMD_DEV_PARTS_GET, VIRTIO_ADMIN_CMD_DEV_PARTS_SET])
        {
            rig.Refused(AdminAnswer.InvalidField, opcode, Members, 1, Header(opcode == VIRTIO_ADMIN_CMD_DEV_PARTS_SET ? Get : Set), Room);
            rig.Refused(new AdminAnswer(VIRTIO_ADMIN_STATUS_ENXIO, VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD), opcode, Members, 1, Header(9), Room);
            rig.Refused(new AdminAnswer(VIRTIO_ADMIN_STATUS_ENXIO, VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD), opcode, Members, 2, Header(opcode == VIRTIO_ADMIN_CMD_DEV_PARTS_SET ? Set : Get), Room);
            rig.Refused(AdminAnswer.InvalidField, opcode, Members, 1, [1, .. Header(opcode == VIRTIO_ADMIN_CMD_DEV_PARTS_SET ? Set : Get)[1..]], Room);
        }
    }

    // 2.12.1.4: stopped, it touches no ring and tells of nothing, and takes notifications all the same; either mode may be set twice.
    [Fact]
    public void Stopped_function_does_nothing_until_it_goes_on()
    {
        using var rig = Rig();
        var vf = rig.Vf(0);
        vf.EnableMsix();
        vf.Start(vector: 1);
        vf.Ring!.RequestCalls(true);
        vf.OfferSector(1);
        Assert.Equal(AdminVf.Sector(1), vf.AwaitSector());
        Deadline.Until(() => vf.Slot.Messages.Contains((0xFEE00000, 0xA1u)), "the message");
        Mode(rig, 1, isStopped: true);
        Mode(rig, 1, isStopped: true);
        vf.Slot.Messages.Clear();
        var state = All(rig, 1);
        vf.OfferSector(2);
        // Accesses are answered; the state does not change by what waits in the ring.
        Assert.Equal(VirtioCard.Running, vf.Driver.Status);
        Assert.Equal(state, All(rig, 1));
        Assert.False(vf.HasUsed());
        Assert.Empty(vf.Slot.Messages);
        Mode(rig, 1, isStopped: false);
        Assert.Equal(AdminVf.Sector(2), vf.AwaitSector());
        Mode(rig, 1, isStopped: false);
        vf.OfferSector(3);
        Assert.Equal(AdminVf.Sector(3), vf.AwaitSector());
        rig.Refused(AdminAnswer.InvalidField, VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, 1, [3]);
        rig.Refused(AdminAnswer.InvalidField, VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, 1, [2]);
    }

    [Fact]
    public void Change_of_the_configuration_is_told_when_the_function_goes_on()
    {
        var network = new EthernetSwitch();
        using var rig = Rig(index => new VirtioNetDevice(index is { } i ? $"vf{i}" : "pf", network, new VirtioNetOptions(0x02000000_0010u + (ulong)(index ?? 9))));
        var vf = rig.Vf(0);
        vf.EnableMsix();
        vf.Start();
        Assert.True(vf.Driver.TrySetConfigVector(0));
        var device = (VirtioNetDevice)rig.Physical.FindVirtualDevice(0)!;
        Mode(rig, 1, isStopped: true);
        device.SetLink(false);
        Assert.Empty(vf.Slot.Messages);
        Mode(rig, 1, isStopped: false);
        Deadline.Until(() => vf.Slot.Messages.Contains((0xFEE00000, 0xA0u)), "the message");
    }

    // A reset of the function ends the mode; one of the device does not (2.12.1.4).
    [Fact]
    public void Reset_of_the_function_ends_the_mode()
    {
        using var rig = Rig();
        var vf = rig.Vf(0);
        vf.Start();
        Mode(rig, 1, isStopped: true);
        vf.Start();
        vf.OfferSector(1);
        rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_SET, Members, 1, Header(Set));
        Assert.False(vf.HasUsed());
        vf.Function.Reset();
        vf.Function.WriteConfig(PciHeader.PCI_COMMAND, [PciCommand.PCI_COMMAND_MASTER, 0]);
        rig.Refused(Busy, VIRTIO_ADMIN_CMD_DEV_PARTS_SET, Members, 1, Header(Set));
        vf.Start();
        vf.OfferSector(2);
        Assert.Equal(AdminVf.Sector(2), vf.AwaitSector());
    }

    // Who has the function stops it for itself: the one goes on only when the other has let go too.
    [Fact]
    public void Who_moves_the_function_and_who_administers_it_stop_it_each()
    {
        using var rig = Rig();
        var vf = rig.Vf(0);
        var movable = (Platform.IMovableState)vf.Function;
        vf.Start();
        Mode(rig, 1, isStopped: true);
        Assert.True(movable.TryPause(out _));
        movable.Resume();
        vf.OfferSector(1);
        rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_SET, Members, 1, Header(Set));
        Assert.False(vf.HasUsed());
        Assert.True(movable.TryPause(out _));
        Mode(rig, 1, isStopped: false);
        All(rig, 1);
        Assert.True(movable.TrySave(new Platform.StateWriter(), out _));
        Assert.False(vf.HasUsed());
        movable.Resume();
        Assert.Equal(AdminVf.Sector(1), vf.AwaitSector());
    }

    // From one function to another, whose driver knows nothing of it.
    [Fact]
    public void State_goes_to_another_function_and_its_driver_goes_on()
    {
        using var rig = Rig();
        var (from, to) = (rig.Vf(0), rig.Vf(1));
        from.Start();
        from.OfferSector(1);
        Assert.Equal(AdminVf.Sector(1), from.AwaitSector());
        Mode(rig, 1, isStopped: true);
        from.OfferSector(2);
        var state = All(rig, 1);
        var memory = new byte[FunctionSlot.MemorySize];
        from.Slot.Memory.Read(0, memory);
        to.Slot.Memory.Write(0, memory);
        Mode(rig, 2, isStopped: true);
        Create(rig, 2, 3, ResourceObject.PartsSet);
        rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_SET, Members, 2, [.. Header(3), .. state]);
        Create(rig, 2, 2);
        Assert.Equal(state, All(rig, 2, 2));
        Mode(rig, 2, isStopped: false);
        // The second buffer, not the first one again.
        Deadline.Until(() => Used(to, from) == 2, "the second used buffer");
        Assert.Equal(AdminVf.Sector(2), to.Content());
        Assert.Equal(1, Used(from, from));
    }

    // The parts of the standard alone bring a queue up, from its beginning.
    [Fact]
    public void Parts_of_the_standard_are_enough_for_a_queue_that_begins()
    {
        using var rig = Rig();
        var (from, to) = (rig.Vf(0), rig.Vf(1));
        from.Start();
        Mode(rig, 1, isStopped: true);
        from.OfferSector(6);
        var state = Split(All(rig, 1)).Where(static p => p.Part.Type != WholeState).SelectMany(static p => Join(p.Part, p.Value)).ToArray();
        var memory = new byte[FunctionSlot.MemorySize];
        from.Slot.Memory.Read(0, memory);
        to.Slot.Memory.Write(0, memory);
        Mode(rig, 2, isStopped: true);
        Create(rig, 2, 3, ResourceObject.PartsSet);
        rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_SET, Members, 2, [.. Header(3), .. state]);
        Assert.Equal((from.Driver.Status, from.Driver.DriverFeatures), (to.Driver.Status, to.Driver.DriverFeatures));
        Mode(rig, 2, isStopped: false);
        Deadline.Until(() => Used(to, from) == 1, "the used buffer");
        Assert.Equal(AdminVf.Sector(6), to.Content());
    }

    [Fact]
    public void Each_field_is_set_and_read_back()
    {
        using var rig = Rig();
        var vf = rig.Vf(0);
        vf.EnableMsix();
        Mode(rig, 1, isStopped: true);
        byte[] queue = [8, 0, 1, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 0, 0, 0, 0, 0x20, 0, 0, 1, 0, 0, 0, 0, 0x30, 0, 0, 1, 0, 0, 0];
        var set = ((ushort Type, ulong Selector, byte[] Value)[])
        [
            (VIRTIO_DEV_PART_DRV_FEATURES, 0, [0, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (VIRTIO_DEV_PART_PCI_COMMON_CFG, 0, [1, 0, 0, 0]),
            (VIRTIO_DEV_PART_PCI_COMMON_CFG, 8, [2, 0, 0, 0]),
            (VIRTIO_DEV_PART_PCI_COMMON_CFG, 0x10, [2, 0]),
            (VIRTIO_DEV_PART_PCI_COMMON_CFG, 0x12, [2, 0]),
            (VIRTIO_DEV_PART_PCI_COMMON_CFG, 0x16, [1, 0]),
            (VIRTIO_DEV_PART_DEVICE_STATUS, 0, [3]),
            (VIRTIO_DEV_PART_VQ_CFG, 1, queue),
        ];
        foreach (var (type, selector, value) in set)
            SetParts(rig, AdminAnswer.Ok, Join(type, selector, value));
        var parts = Split(All(rig, 1));
        foreach (var (type, selector, value) in set)
            Assert.Equal(Convert.ToHexString(value), Convert.ToHexString(Find(parts, type, selector)));
        Assert.Equal((1u, 2u, 2, 1, 3), (
            vf.Registers.ReadUInt32(0), vf.Registers.ReadUInt32(8), vf.Registers.ReadUInt16(0x10), vf.Registers.ReadUInt16(0x16), vf.Driver.Status));
    }

    // 2.12.1.4: lengths that differ from the device's, and what it can't have, are refused whole.
    [Fact]
    public void Parts_that_do_not_fit_change_nothing()
    {
        using var rig = Rig();
        var vf = rig.Vf(0);
        vf.Start();
        SetParts(rig, Busy, Join(VIRTIO_DEV_PART_DEVICE_STATUS, 0, [VirtioCard.Running]));
        Mode(rig, 1, isStopped: true);
        var before = All(rig, 1);
        var parts = Split(before);
        var good = Join(VIRTIO_DEV_PART_PCI_COMMON_CFG, 8, [1, 0, 0, 0]);
        foreach (var (part, value) in parts)
        {
            if (part.Type != WholeState)
                SetParts(rig, AdminAnswer.Ok, Join(part, value));
            SetParts(rig, AdminAnswer.InvalidField, [.. good, .. Join(part.Type, part.Selector, [.. value, 0])]);
            SetParts(rig, AdminAnswer.InvalidField, [.. good, .. Join(part.Type, part.Selector, value[..^1])]);
            SetParts(rig, AdminAnswer.InvalidField, [.. good, .. Join(part, value)[..^1]]);
        }

        var queue = Find(parts, VIRTIO_DEV_PART_VQ_CFG, 0);
        var bad = ((ushort Type, ulong Selector, byte[] Value)[])
        [
            // Features that the device does not offer, or that it has not itself.
            (VIRTIO_DEV_PART_DEV_FEATURES, 0, new byte[16]),
            (VIRTIO_DEV_PART_DRV_FEATURES, 0, [.. Find(parts, VIRTIO_DEV_PART_DRV_FEATURES)[..15], 0x80]),
            (VIRTIO_DEV_PART_PCI_COMMON_CFG, 0x12, [3, 0]),
            (VIRTIO_DEV_PART_PCI_COMMON_CFG, 0x10, [3, 0]),
            (VIRTIO_DEV_PART_PCI_COMMON_CFG, 0x3C, [0, 0]),
            (VIRTIO_DEV_PART_DEVICE_STATUS, 0, [VirtioStatus.DRIVER_OK]),
            (VIRTIO_DEV_PART_DEVICE_STATUS, 1, [VirtioCard.Running]),
            (VIRTIO_DEV_PART_VQ_CFG, 2, queue),
            (VIRTIO_DEV_PART_VQ_CFG, 0, [3, 0, .. queue[2..]]),
            (VIRTIO_DEV_PART_VQ_CFG, 0, [0, 0, .. queue[2..]]),
            (VIRTIO_DEV_PART_VQ_CFG, 0, [16, 0, 7, 0, .. queue[4..]]),
            (VIRTIO_DEV_PART_VQ_CFG, 0, [.. queue[..4], 2, .. queue[5..]]),
            (VIRTIO_DEV_PART_VQ_CFG, 0, [.. queue[..5], 1, .. queue[6..]]),
            (VIRTIO_DEV_PART_VQ_NOTIFY_CFG, 0, [1, 0, 0, 0, 0, 0, 0, 0]),
            (0x106, 0, []),
            (0x201, 0, []),
            (WholeState, 0, []),
            (WholeState, 1, Find(parts, WholeState)),
        ];
        foreach (var (type, selector, value) in bad)
            SetParts(rig, AdminAnswer.InvalidField, [.. good, .. Join(type, selector, value)]);
        // What fills up a word is nothing (2.13); more than that, or not 0, is a part that is cut off.
        SetParts(rig, AdminAnswer.Ok, [.. Join(VIRTIO_DEV_PART_DEVICE_STATUS, 0, [VirtioCard.Running]), 0, 0, 0, 0, 0, 0, 0]);
        SetParts(rig, AdminAnswer.InvalidField, [.. good, 0, 0, 0, 0, 0, 0, 0, 0]);
        SetParts(rig, AdminAnswer.InvalidField, [.. good, 0, 0, 1]);
        Assert.Equal(before, All(rig, 1));
        // Who does not know a part that is optional passes it over.
        SetParts(rig, AdminAnswer.Ok, [.. Join(new DevicePart(0x106, Optional, 5, 3), [1, 2, 3]), .. Join(new DevicePart(0x5FF, Optional, 0, 0), [])]);
        Assert.Equal(before, All(rig, 1));
        Mode(rig, 1, isStopped: false);
        vf.OfferSector(1);
        Assert.Equal(AdminVf.Sector(1), vf.AwaitSector());
    }

    // What a queue has in work by messages may wait for the peer; the command does not, and nothing is changed by it (2.12.1).
    [Fact]
    public void Function_that_waits_for_a_peer_is_to_be_asked_again_and_goes_on()
    {
        using var rig = Rig(static index => new VirtioRngDevice($"r{index}"));
        var vf = rig.Vf(0);
        var held = vf.StartHeld();
        try
        {
            vf.Ask();
            Deadline.Until(() => held.Waiting > 0, "a message");
            rig.Refused(AdminAnswer.TryAgain, VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, 1, [1]);
            rig.Refused(AdminAnswer.TryAgain, VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, 1, [.. Header(Get), 1], Room);
        }
        finally
        {
            held.Release();
        }

        Deadline.Until(() => vf.HasUsed(), "a used buffer");
        vf.Ask();
        Deadline.Until(() => vf.HasUsed(), "a used buffer");
        Mode(rig, 1, isStopped: true);
        All(rig, 1);
        Mode(rig, 1, isStopped: false);
    }

    // A back end here that hangs is no reason for all others to wait either.
    [Fact]
    public void Function_whose_back_end_hangs_is_to_be_asked_again_and_goes_on()
    {
        using var open = new ManualResetEventSlim(true);
        using var hangs = new ManualResetEventSlim();
        using var rig = Rig(index => new NewDevice(() =>
        {
            if (index != 0 || open.IsSet)
                return;
            hangs.Set();
            open.Wait();
        }));
        var vf = rig.Vf(0);
        vf.Start();
        open.Reset();
        try
        {
            vf.Registers.Notify(0);
            Deadline.Until(() => hangs.IsSet, "a look at the ring");
            rig.Refused(AdminAnswer.TryAgain, VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, 1, [1]);
            rig.Refused(AdminAnswer.TryAgain, VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, 1, [.. Header(Get), 1], Room);
            Mode(rig, 2, isStopped: true);
        }
        finally
        {
            open.Set();
        }

        Deadline.Until(() => rig.Send(VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, 1, [1]).Answer.IsOk, "the function that stands still");
        All(rig, 1);
        Mode(rig, 1, isStopped: false);
    }

    [Fact]
    public void State_of_a_legacy_driver_goes_too()
    {
        using var rig = Rig();
        Mode(rig, 1, isStopped: true);
        rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE, Members, 1, [8, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0]);
        rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE, Members, 1, [18, 0, 0, 0, 0, 0, 0, 0, 3]);
        var state = All(rig, 1);
        Mode(rig, 2, isStopped: true);
        Create(rig, 2, 3, ResourceObject.PartsSet);
        rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_SET, Members, 2, [.. Header(3), .. state]);
        Assert.Equal([7, 0, 0, 0], rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ, Members, 2, [8], 4));
        Assert.Equal([3], rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ, Members, 2, [18], 1));
    }

    private static AdminRig Rig(Func<int?, VirtioDevice>? make = null)
    {
        var rig = new AdminRig(make: make);
        rig.UseAll();
        Limit(rig, 4, 4);
        Create(rig, 1, Get);
        Create(rig, 1, Set, ResourceObject.PartsSet);
        return rig;
    }

    private static void Mode(AdminRig rig, ulong member, bool isStopped) => rig.Ok(VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, member, [isStopped ? (byte)1 : (byte)0]);

    private static byte[] All(AdminRig rig, ulong member, uint id = Get) => rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, member, [.. Header(id), 1, 0, 0, 0, 0, 0, 0, 0], Room);

    private static byte[] Metadata(AdminRig rig, byte type, int room) => rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET, Members, 1, [.. Header(Get), type, 0, 0, 0, 0, 0, 0, 0], room);

    private static void SetParts(AdminRig rig, AdminAnswer expected, byte[] parts) => Assert.Equal(expected, rig.SendUntilHeard(VIRTIO_ADMIN_CMD_DEV_PARTS_SET, Members, 1, [.. Header(Set), .. parts]).Answer);

    private static List<(DevicePart Part, byte[] Value)> Split(ReadOnlySpan<byte> bytes)
    {
        var parts = new List<(DevicePart Part, byte[] Value)>();
        while (TryTake(ref bytes, out var part, out var value))
            parts.Add((part, value.ToArray()));
        Assert.True(bytes.IsEmpty);
        return parts;
    }

    private static byte[] Find(List<(DevicePart Part, byte[] Value)> parts, ushort type, ulong selector = 0) =>
        Assert.Single(parts, p => p.Part.Type == type && p.Part.Selector == selector).Value;

    private static byte[] Name(ushort type, ulong selector) => Join(type, selector, []);

    private static byte[] Join(ushort type, ulong selector, byte[] value) => Join(new DevicePart(type, 0, selector, (uint)value.Length), value);

    private static byte[] Join(in DevicePart part, byte[] value)
    {
        var bytes = new byte[Size + value.Length];
        part.Write(bytes);
        value.CopyTo(bytes, Size);
        return bytes;
    }

    // The memory of the function that the state came from has it at the same place.
    private static int Used(AdminVf vf, AdminVf from)
    {
        Span<byte> index = stackalloc byte[2];
        vf.Slot.Memory.Read(from.UsedIndexAt, index);
        return BinaryPrimitives.ReadUInt16LittleEndian(index);
    }
}
