using System.Buffers.Binary;
using Virtbus.Buses.Virtio;
using Virtbus.Drivers.VirtioPci;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Admin;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>An administration queue whose device is the test: it sees commands, and answers what, when and as often as it likes.</summary>
internal sealed class AdminHand : IDisposable
{
    private const int MostBytes = (2 * VirtioPciAdminQueue.MostBytes) + 4096;
    private readonly DmaPort _port;
    private readonly RingLayout _layout;
    private readonly byte[] _bytes = new byte[MostBytes];
    private readonly List<AdminGiven> _pending = [];
    private ushort _next;
    private ushort _used;

    internal AdminHand(int size = VirtioPciAdminQueue.Depth, TimeProvider? time = null, VirtioPciAdminMonitor? news = null)
    {
        Group = new IommuGroup(1);
        _port = new DmaPort("device", Group) { IsBusMaster = true };
        Assert.True(Group.TryClaimForDriver("driver", out _));
        Admin = new VirtioPciAdminQueue(Group, time ?? Time, news);
        Queue = VirtioQueue.Create(
            Group, 7, new VirtioQueueSpec("avq.7", Admin.OnUsed, size), size, VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1), 4, _ => OnNotify?.Invoke(), (_, fault) =>
            {
                Breaks.Add(fault);
                Admin.OnBroken(fault);
            });
        _layout = Queue.Layout;
        Admin.Attach(Queue);
    }

    internal IommuGroup Group { get; }

    internal ManualTime Time { get; } = new();

    internal VirtioPciAdminQueue Admin { get; }

    internal VirtioQueue Queue { get; }

    internal List<Fault> Breaks { get; } = [];

    /// <summary>Called on the thread that gives a command.</summary>
    internal Action? OnNotify { get; set; }

    /// <summary>Ranges of memory that the device reaches.</summary>
    internal int Mapped
    {
        get
        {
            using var map = _port.Snapshot();
            return map.Ranges.Length;
        }
    }

    /// <summary>What it was given and has not answered, the oldest first.</summary>
    internal List<AdminGiven> Look()
    {
        Span<byte> descriptor = stackalloc byte[16];
        lock (_pending)
        {
            while (Read16(_layout.DriverArea.Value + 2) is var index && index != _next)
            {
                var head = Read16(_layout.DriverArea.Value + 4 + (2 * (ulong)(_next & (_layout.Size - 1))));
                _next++;
                _port.TryRead(new Iova(_layout.DescriptorArea.Value + (16 * (ulong)head)), descriptor);
                var (address, length, second) =
                    (BinaryPrimitives.ReadUInt64LittleEndian(descriptor), BinaryPrimitives.ReadUInt32LittleEndian(descriptor[8..]), BinaryPrimitives.ReadUInt16LittleEndian(descriptor[14..]));
                Assert.Equal(SplitRing.VIRTQ_DESC_F_NEXT, BinaryPrimitives.ReadUInt16LittleEndian(descriptor[12..]));
                _port.TryRead(new Iova(_layout.DescriptorArea.Value + (16 * (ulong)second)), descriptor);
                Assert.Equal(SplitRing.VIRTQ_DESC_F_WRITE, BinaryPrimitives.ReadUInt16LittleEndian(descriptor[12..]));
                Assert.True(_port.TryRead(new Iova(address), _bytes.AsSpan(0, (int)length)));
                _pending.Add(new AdminGiven(
                    head,
                    AdminCommand.Read(_bytes.AsSpan(0, (int)length)),
                    _bytes.AsSpan(AdminCommand.Size, (int)length - AdminCommand.Size).ToArray(),
                    new Iova(BinaryPrimitives.ReadUInt64LittleEndian(descriptor)),
                    (int)BinaryPrimitives.ReadUInt32LittleEndian(descriptor[8..])));
            }

            return [.. _pending];
        }
    }

    /// <summary>Answers, and interrupts.</summary>
    /// <param name="given">What.</param>
    /// <param name="status">Status of the answer.</param>
    /// <param name="result">What stands behind it, as much as there is room for.</param>
    internal void Answer(AdminGiven given, ushort status = 0, params ReadOnlySpan<byte> result)
    {
        Span<byte> answer = new byte[AdminAnswer.Size + result.Length];
        new AdminAnswer(status, status == 0 ? (ushort)0 : AdminQualifier.VIRTIO_ADMIN_STATUS_Q_INVALID_COMMAND).Write(answer);
        result.CopyTo(answer[AdminAnswer.Size..]);
        answer = answer[..Math.Min(answer.Length, given.AnswerLength)];
        AnswerRaw(given, answer, (uint)answer.Length, given.Head);
        Queue.Interrupt();
    }

    /// <summary>Answers with bytes, a length and a name that need not fit.</summary>
    internal bool AnswerRaw(AdminGiven given, ReadOnlySpan<byte> answer, uint written, uint head)
    {
        lock (_pending)
        {
            _pending.Remove(given);
            var isWritten = _port.TryWrite(given.AnswerAddress, answer);
            Span<byte> element = stackalloc byte[8];
            BinaryPrimitives.WriteUInt32LittleEndian(element, head);
            BinaryPrimitives.WriteUInt32LittleEndian(element[4..], written);
            isWritten &= _port.TryWrite(new Iova(_layout.DeviceArea.Value + 4 + (8 * (ulong)(_used & (_layout.Size - 1)))), element);
            BinaryPrimitives.WriteUInt16LittleEndian(element, ++_used);
            return _port.TryWrite(new Iova(_layout.DeviceArea.Value + 2), element[..2]) && isWritten;
        }
    }

    /// <summary>Answers each command as soon as it is given.</summary>
    internal void AnswerAll(Func<AdminGiven, (ushort Status, byte[] Result)> answer) => OnNotify = () =>
    {
        foreach (var given in Look())
        {
            var (status, result) = answer(given);
            Answer(given, status, result);
        }
    };

    /// <summary>Gives a command on a thread of its own.</summary>
    internal Task<(bool IsDone, Fault Fault, byte[] Result, int Written)> GiveAsync(ushort opcode, ulong member, byte[] data, int resultLength) => Task.Factory.StartNew(
        () =>
        {
            var result = new byte[resultLength];
            result.AsSpan().Fill(0xEE);
            var isDone = Admin.TryExecute(new AdminCommand(opcode, AdminGroupType.VIRTIO_ADMIN_GROUP_TYPE_SRIOV, member), data, [], result, out var written, out var fault);
            return (isDone, fault, result, written);
        },
        CancellationToken.None,
        TaskCreationOptions.LongRunning,
        TaskScheduler.Default);

    /// <summary>Waits until the device was given so many that it has not answered.</summary>
    internal List<AdminGiven> See(int count)
    {
        Deadline.Until(() => Look().Count >= count, $"{count} commands");
        return Look();
    }

    public void Dispose() => Admin.Dispose();

    private ushort Read16(ulong address)
    {
        Span<byte> value = stackalloc byte[2];
        _port.TryRead(new Iova(address), value);
        return BinaryPrimitives.ReadUInt16LittleEndian(value);
    }
}
