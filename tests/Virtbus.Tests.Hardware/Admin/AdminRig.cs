using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Memory;
using Virtbus.Models.VirtioBlk;
using Virtbus.Pci;
using Virtbus.Virtio;
using Virtbus.Virtio.Admin;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Hardware.Admin;

/// <summary>A physical function with virtual ones, disks if nothing else is said, and a driver of its administration queue.</summary>
internal sealed class AdminRig : IDisposable
{
    internal const ushort Self = AdminGroupType.VIRTIO_ADMIN_GROUP_TYPE_SELF;
    internal const ushort Members = AdminGroupType.VIRTIO_ADMIN_GROUP_TYPE_SRIOV;
    internal const ulong CommandAt = 0x8000;
    internal const ulong AnswerAt = 0x10000;
    private const byte Canary = 0xC5;

    private readonly List<MemoryBackend> _media = [];
    private readonly Dictionary<int, AdminVf> _cards = [];

    internal AdminRig(int functions = 2, bool isStrict = false, Func<int?, VirtioDevice>? make = null, bool isStarted = true)
    {
        make ??= MakeDisk;
        Physical = new VirtioFunction(make(null), new VirtioFunctionOptions { VirtualFunctions = 4, IsAdminStrict = isStrict }, index => make(index));
        Physical.Plug(Slot);
        Registers = new VirtioPciAccess(Physical);
        Physical.WriteConfig(PciHeader.PCI_COMMAND, [PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_MASTER, 0]);
        Slot.Dma.IsBusMaster = true;
        if (isStarted)
            Start();
        if (functions > 0)
            Enable(functions);
    }

    internal FunctionSlot Slot { get; } = new();

    internal VirtioFunction Physical { get; }

    internal VirtioPciAccess Registers { get; }

    internal VirtioRegisterTransport Driver => field ??= new VirtioRegisterTransport(Registers);

    internal SplitDriverRing Ring { get; private set; } = null!;

    internal int AdminIndex => Driver.QueueCount;

    public void Dispose()
    {
        foreach (var card in _cards.Values)
            card.Dispose();
        Physical.Dispose();
        Slot.Dispose();
        foreach (var medium in _media)
            medium.Dispose();
    }

    /// <summary>Brings the physical function up, with its administration queue alone.</summary>
    internal void Start(bool takesQueue = true)
    {
        Deadline.Until(() => Driver.TryReset(out _), "the end of the reset");
        Assert.True(Driver.TrySetStatus(ACKNOWLEDGE, out _));
        Assert.True(Driver.TrySetStatus(ACKNOWLEDGE | DRIVER, out _));
        var features = Driver.DeviceFeatures & ~VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_RING_PACKED, VirtioFeatures.VIRTIO_F_IN_ORDER, VirtioFeatures.VIRTIO_F_EVENT_IDX);
        if (!takesQueue)
            features = features.Without(VirtioFeatures.VIRTIO_F_ADMIN_VQ);
        Assert.True(Driver.TrySetDriverFeatures(features, out var fault), fault.Message);
        Assert.True(Driver.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, out fault), fault.Message);
        if (takesQueue)
            SetUpQueue();
        Assert.True(Driver.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, out fault), fault.Message);
    }

    internal void SetUpQueue()
    {
        Driver.Select(AdminIndex);
        Slot.Memory.Write(0, new byte[0x2000]);
        Ring = new SplitDriverRing(Slot.Memory, new Iova(FunctionSlot.MemoryAddress), 0, 64, false, false);
        Driver.SetQueueSize(64);
        Driver.SetQueueAddress(Ring.Layout.DescriptorArea, Ring.Layout.DriverArea, Ring.Layout.DeviceArea);
        Assert.True(Driver.TryEnable());
    }

    /// <summary>Gives the administration queue a new ring, and leaves the device as it is.</summary>
    internal void ResetQueue()
    {
        Driver.Select(AdminIndex);
        Registers.WriteUInt16(VirtioCommonConfig.queue_reset, 1);
        Deadline.Until(() => Registers.ReadUInt16(VirtioCommonConfig.queue_reset) == 0, "the end of the queue's reset");
        SetUpQueue();
    }

    /// <summary>Sets VF Enable with so many functions; with none clears it.</summary>
    internal void Enable(int functions)
    {
        var sriov = Physical.ConfigLayout.FindExtendedCapability(PciExtendedCapabilityId.PCI_EXT_CAP_ID_SRIOV);
        if (functions == 0)
        {
            foreach (var card in _cards.Values)
                card.Dispose();
            _cards.Clear();
            Physical.WriteConfig(sriov + PciSriov.PCI_SRIOV_CTRL, [0, 0]);
            return;
        }

        Span<byte> count = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(count, (ushort)functions);
        Physical.WriteConfig(sriov + PciSriov.PCI_SRIOV_NUM_VF, count);
        Physical.WriteConfig(sriov + PciSriov.PCI_SRIOV_CTRL, [PciSriov.PCI_SRIOV_CTRL_VFE | PciSriov.PCI_SRIOV_CTRL_MSE, 0]);
        Assert.Equal(functions, Physical.VirtualFunctions.Count);
    }

    /// <summary>Resets the physical function, whose virtual ones go with that.</summary>
    internal void ResetFunction()
    {
        foreach (var card in _cards.Values)
            card.Dispose();
        _cards.Clear();
        Physical.Reset();
        Physical.WriteConfig(PciHeader.PCI_COMMAND, [PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_MASTER, 0]);
    }

    /// <summary>A virtual function in a slot of its own, by its number from 0.</summary>
    internal AdminVf Vf(int index)
    {
        if (!_cards.TryGetValue(index, out var card))
            _cards[index] = card = new AdminVf((PciFunction)Physical.VirtualFunctions[index]);
        return card;
    }

    /// <summary>Has the driver use all commands of both groups.</summary>
    internal void UseAll()
    {
        foreach (var group in (ReadOnlySpan<ushort>)[Self, Members])
            Ok(AdminOpcode.VIRTIO_ADMIN_CMD_LIST_USE, group, 0, Ok(AdminOpcode.VIRTIO_ADMIN_CMD_LIST_QUERY, group, 0, [], 8));
    }

    /// <summary>Sends a command that is to be done; its result.</summary>
    internal byte[] Ok(ushort opcode, ushort group, ulong member, ReadOnlySpan<byte> data, int room = 0)
    {
        var (answer, result) = SendUntilHeard(opcode, group, member, data, room);
        Assert.Equal(AdminAnswer.Ok, answer);
        return result;
    }

    /// <summary>Sends a command that is refused.</summary>
    internal void Refused(AdminAnswer expected, ushort opcode, ushort group, ulong member, ReadOnlySpan<byte> data, int room = 0)
    {
        var (answer, result) = expected == AdminAnswer.TryAgain ? Send(opcode, group, member, data, room) : SendUntilHeard(opcode, group, member, data, room);
        Assert.Equal(expected, answer);
        Assert.Empty(result);
    }

    internal void Refused(ushort qualifier, ushort opcode, ushort group, ulong member, ReadOnlySpan<byte> data, int room = 0) =>
        Refused(AdminAnswer.Invalid(qualifier), opcode, group, member, data, room);

    internal (AdminAnswer Answer, byte[] Result) Send(ushort opcode, ushort group, ulong member, ReadOnlySpan<byte> data, int room = 0)
    {
        var command = new byte[AdminCommand.Size + data.Length];
        new AdminCommand(opcode, group, member).Write(command);
        data.CopyTo(command.AsSpan(AdminCommand.Size));
        var written = Raw(command, AdminAnswer.Size + room);
        Assert.True(written.Length >= AdminAnswer.Size);
        // Reserved bytes are 0 (2.12.1).
        Assert.Equal(0, BinaryPrimitives.ReadInt32LittleEndian(written.AsSpan(4)));
        return (AdminAnswer.Read(written), written[AdminAnswer.Size..]);
    }

    /// <summary>As <see cref="Send"/>, again as long as the device is to be asked again: on a busy host its queues take longer to stand still than a command waits.</summary>
    internal (AdminAnswer Answer, byte[] Result) SendUntilHeard(ushort opcode, ushort group, ulong member, ReadOnlySpan<byte> data, int room = 0)
    {
        var given = data.ToArray();
        (AdminAnswer Answer, byte[] Result) heard = default;
        Deadline.Until(
            () =>
            {
                heard = Send(opcode, group, member, given, room);
                return heard.Answer != AdminAnswer.TryAgain;
            },
            "an answer other than EAGAIN");
        return heard;
    }

    /// <summary>Sends bytes with so much room for the answer; what the device says it wrote. Behind that nothing is written.</summary>
    internal byte[] Raw(ReadOnlySpan<byte> command, int room)
    {
        Offer(command, room);
        var written = Await();
        Assert.InRange(written, 0u, (uint)room);
        var bytes = new byte[room];
        Slot.Memory.Read(AnswerAt, bytes);
        Assert.False(bytes.AsSpan((int)written).ContainsAnyExcept(Canary));
        return bytes[..(int)written];
    }

    /// <summary>Sends several commands at once, each of up to 4 KiB, with up to 8 KiB of room; what the device says it wrote.</summary>
    internal List<byte[]> RawAll(List<(byte[] Command, int Room)> commands)
    {
        var heads = new List<int>();
        for (var i = 0; i < commands.Count; i++)
            heads.Add(Add(commands[i].Command, commands[i].Room, CommandAt + ((ulong)i * 0x1000), AnswerAt + ((ulong)i * 0x2000)));
        Ring.Publish();
        Registers.Notify(AdminIndex);
        var results = new List<byte[]>();
        for (var i = 0; i < commands.Count; i++)
        {
            var (head, written) = ((ushort)0, 0u);
            Deadline.Until(() => Ring.TryTakeUsed(out head, out written, out _), "a used buffer");
            // In their order (2.13).
            Assert.Equal(heads[i], head);
            var bytes = new byte[commands[i].Room];
            Slot.Memory.Read(AnswerAt + ((ulong)i * 0x2000), bytes);
            Assert.InRange(written, 0u, (uint)bytes.Length);
            Assert.False(bytes.AsSpan((int)written).ContainsAnyExcept(Canary));
            results.Add(bytes[..(int)written]);
        }

        return results;
    }

    private void Offer(ReadOnlySpan<byte> command, int room)
    {
        Add(command, room, CommandAt, AnswerAt);
        Ring.Publish();
        Registers.Notify(AdminIndex);
    }

    private int Add(ReadOnlySpan<byte> command, int room, ulong commandAt, ulong answerAt)
    {
        Slot.Memory.Write(commandAt, command);
        var answer = new byte[room];
        answer.AsSpan().Fill(Canary);
        Slot.Memory.Write(answerAt, answer);
        var buffers = new List<DriverBuffer>();
        if (!command.IsEmpty)
            buffers.Add(new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + commandAt), (uint)command.Length, false));
        if (room > 0)
            buffers.Add(new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + answerAt), (uint)room, true));
        var head = Ring.Add(System.Runtime.InteropServices.CollectionsMarshal.AsSpan(buffers));
        Assert.True(head >= 0);
        return head;
    }

    internal uint Await()
    {
        var written = 0u;
        Deadline.Until(() => Ring.TryTakeUsed(out _, out written, out _), "a used buffer");
        return written;
    }

    private VirtioBlkDevice MakeDisk(int? index)
    {
        var medium = new MemoryBackend(1 << 20);
        _media.Add(medium);
        var device = new VirtioBlkDevice(index is { } number ? $"vf{number}" : "pf", medium, "serial", queueCount: 2);
        if (index is not null)
        {
            using var user = new VirtioBlkUser(device);
            for (var sector = 0; sector < 8; sector++)
                Assert.Equal(0, user.Write((ulong)sector, AdminVf.Sector(sector)));
        }

        return device;
    }
}
