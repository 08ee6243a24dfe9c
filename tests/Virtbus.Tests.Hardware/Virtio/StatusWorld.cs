using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Models.VirtioRng;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioCommonConfig;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>An entropy source whose queue has its turns when the test says so, and the model of what its driver finds.</summary>
internal sealed class StatusWorld : IDisposable
{
    private const ulong Data = 0x10000;
    private readonly PollThreads _pool = PollThreads.MakeStepped("status");
    private readonly VirtioCard _card;
    private readonly byte[] _registers = new byte[VirtioCommonConfig.Size];
    private StatusModel _model;
    private SplitDriverRing? _ring;

    internal StatusWorld()
    {
        PollThreads.Here = _pool;
        _card = new VirtioCard(new VirtioRngDevice("rng", static bytes => bytes.Fill(7)));
        Registers = _card.Registers;
    }

    internal StatusModel Model => _model;

    private VirtioPciAccess Registers { get; }

    public void Dispose()
    {
        _card.Dispose();
        PollThreads.Here = null;
        _pool.Dispose();
    }

    /// <summary>Begins anew.</summary>
    internal void Reset()
    {
        Registers.Write(device_status, [0]);
        _model = default;
        _ring = null;
    }

    /// <summary>Does a step, on the device and in the model.</summary>
    /// <returns>What is different; null when nothing is.</returns>
    internal string? Do(int step)
    {
        var before = _model;
        _model.Do(step);
        switch (step)
        {
            case < 256:
                Registers.Write(device_status, [(byte)step]);
                break;
            case StatusStep.Version or StatusStep.All or StatusStep.NoFeatures or StatusStep.Unoffered:
                SetFeatures(0, step == StatusStep.Unoffered ? 1u : 0);
                SetFeatures(1, step == StatusStep.NoFeatures ? 0u : step == StatusStep.All ? 0x101u : 1u);
                break;
            case StatusStep.Place:
                Place(before.CanPlace);
                break;
            case StatusStep.Enable:
                Registers.WriteUInt16(queue_enable, 1);
                break;
            case StatusStep.ResetQueue:
                Registers.WriteUInt16(queue_reset, 1);
                break;
            case StatusStep.Offer when before.CanOffer:
                _ring!.Add([new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + Data), 8, true)]);
                _ring.Publish();
                break;
            case StatusStep.Break when before.CanBreak:
                _card.Slot.Memory.Write(_ring!.Layout.DriverArea.Value - FunctionSlot.MemoryAddress + 2, [0x77, 0x77]);
                break;
        }

        if (!_model.HasRing)
            _ring = null;
        if (step is StatusStep.Offer or StatusStep.Break)
            Registers.Notify(0);
        while (_pool[0].Step())
        {
        }

        return Compare();
    }

    private string? Compare()
    {
        Registers.Read(0, _registers);
        var status = _registers[device_status];
        if (status != _model.Status)
            return $"the status is {status}, and should be {_model.Status}";
        var isEnabled = _registers[queue_enable] != 0;
        if (isEnabled != _model.IsEnabled)
            return $"the queue is {(isEnabled ? "" : "not ")}enabled";
        var features = BinaryPrimitives.ReadUInt32LittleEndian(_registers.AsSpan(driver_feature));
        uint expected = _model.Features switch { StatusStep.Version or StatusStep.Unoffered => 1, StatusStep.All => 0x101, _ => 0 };
        if (features != expected && BinaryPrimitives.ReadUInt32LittleEndian(_registers.AsSpan(driver_feature_select)) == 1)
            return $"the driver's features are {features:x}, and should be {expected:x}";
        var place = BinaryPrimitives.ReadUInt64LittleEndian(_registers.AsSpan(queue_desc));
        if (place != (_model.IsPlaced ? FunctionSlot.MemoryAddress : 0))
            return $"the queue is at {place:x}";
        if (_ring is null)
            return null;
        Span<byte> used = stackalloc byte[2];
        _card.Slot.Memory.Read(_ring.Layout.DeviceArea.Value - FunctionSlot.MemoryAddress + 2, used);
        return used[0] == _model.Served ? null : $"{used[0]} buffers came back, and {_model.Served} should";
    }

    private void SetFeatures(uint select, uint value)
    {
        Registers.WriteUInt32(driver_feature_select, select);
        Registers.WriteUInt32(driver_feature, value);
    }

    // Of a queue that is enabled the registers take nothing, wherever the driver says that it is.
    private void Place(bool lays)
    {
        if (lays)
        {
            _card.Slot.Memory.Write(0, new byte[0x400]);
            _ring = new SplitDriverRing(_card.Slot.Memory, new Iova(FunctionSlot.MemoryAddress), 0, VirtioCard.RingSize, false, false);
        }

        var layout = _ring?.Layout;
        var moved = lays ? 0UL : 0x1000;
        Registers.WriteUInt16(queue_size, VirtioCard.RingSize);
        Registers.WriteUInt64(queue_desc, (layout?.DescriptorArea.Value ?? 0) + moved);
        Registers.WriteUInt64(queue_driver, (layout?.DriverArea.Value ?? 0) + moved);
        Registers.WriteUInt64(queue_device, (layout?.DeviceArea.Value ?? 0) + moved);
    }
}
