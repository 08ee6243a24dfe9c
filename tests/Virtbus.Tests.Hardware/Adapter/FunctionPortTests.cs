using System.Buffers.Binary;
using Virtbus.Hardware.Adapter;
using Virtbus.Platform;

namespace Virtbus.Tests.Hardware.Adapter;

/// <summary>A function of an adapter needs a port and an id, and no PCI function of its own. MS-10.</summary>
public sealed class FunctionPortTests : IDisposable
{
    private const uint Id = 0x1001;
    private const uint Pasid = 9;
    private const ulong Place = 0x40000;
    private const int FirstVector = 4;
    private const ulong Commands = AdapterDriver.Free + 0x40000;
    private const ulong Events = Commands + 0x1000;
    private const ulong State = AdapterDriver.Free + 0x80000;

    private readonly AdapterFunction _function = AdapterDriver.Make(merlin: true, vfs: 2);
    private readonly AdapterDriver _physical;
    private readonly FunctionUnit _piece;
    private uint _producer;

    public FunctionPortTests()
    {
        _physical = new AdapterDriver(_function);
        _physical.Enable();
        Assert.True(_physical.AttachPasid(Pasid));
        _function.Functions.Declare(Id, new FunctionSettings(0x0A00000000EE, 2));
        _piece = _function.Functions.Create(AdapterLayout.Merlin, new PiecePort(_function, Id, Place, FirstVector, Pasid));
        _piece.Plugged(_physical.Dma.ForPasid(Pasid));
    }

    public void Dispose()
    {
        _piece.Dispose();
        _function.Functions.Remove(Id);
        _physical.Dispose();
        _function.Dispose();
    }

    [Fact]
    public void Piece_of_a_function_runs_commands_and_carries_frames_with_its_own_vectors()
    {
        Assert.Equal(0x0A00000000EEUL, Read(0x20));
        Assert.Equal(Id, (uint)(Read(0x18) >> 32));
        Assert.Equal(2UL | 15 << 16 | 4UL << 32, Read(0x10));
        Enable();
        Assert.Equal(Errno.None, Do(AdapterOpcode.Nop));
        _physical.WaitInterrupt(FirstVector);

        var own = _physical.CreateQueues(0);
        own.Post(4);
        var queues = new AdapterQueues(_physical, AdapterDriver.Free + 0x20000, 1);
        _physical.Fill(queues.Start, 0x1000);
        Assert.Equal(Errno.None, Do(AdapterOpcode.CreateQueueSet, queues.Arguments));
        var frame = AdapterFunctionTests.Frame(70);
        _physical.WriteMemory(queues.TransmitBuffer(0), frame);
        queues.Add(queues.TransmitBuffer(0), (uint)frame.Length);
        queues.Publish();
        _piece.WriteBar(FunctionRegisterPlace.DoorbellBar, Place + 0x100, [0, 0, 0, 0]);
        Assert.Equal(frame, own.Receive().Frame);
    }

    [Fact]
    public void Piece_reaches_memory_by_its_PASID_only()
    {
        // The physical function reaches what it did; the piece does not any more.
        Assert.True(_physical.DetachPasid(Pasid));
        Enable();
        Write(2, 0, 1);
        Assert.True(SpinWait.SpinUntil(() => Read(0x50) == (ulong)AdapterError.DmaFault, TimeSpan.FromSeconds(10)), "the piece reaches memory");
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.Nop).Status);
    }

    [Fact]
    public void Commands_name_it_by_its_id_as_they_name_a_virtual_function()
    {
        Enable();
        Assert.Equal((0x0A00000000EEUL, 2UL | 1 << 16), Answer(_physical.Do(AdapterOpcode.QueryFunction, Id)));
        Assert.Equal(Errno.EBUSY, _physical.Do(AdapterOpcode.SetFunction, Id, 0x0A00000000FF, 1).Status);
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.SuspendFunction, Id, 0).Status);
        Assert.Equal((ulong)AdapterStatus.Suspended, Read(0x48) & AdapterStatus.Suspended);
        var saved = _physical.Do(AdapterOpcode.SaveFunction, Id, State, 4096);
        Assert.Equal(Errno.None, saved.Status);
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.LoadFunction, Id, State, saved.First).Status);
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.ResumeFunction, Id).Status);
        Assert.Equal(Errno.None, Do(AdapterOpcode.Nop));

        // Its state is none of a virtual function, though both are of one make.
        using var virtualRig = new AdapterDriver(AdapterDriver.EnableVirtual(_function, 1)[0]);
        _physical.Do(AdapterOpcode.SuspendFunction, FunctionIdentity.OfVirtual(0), 0);
        Assert.Equal(Errno.EINVAL, _physical.Do(AdapterOpcode.LoadFunction, FunctionIdentity.OfVirtual(0), State, saved.First).Status);
    }

    [Fact]
    public void Id_that_nothing_was_declared_for_is_unknown_and_one_without_a_function_is_not_there()
    {
        Assert.Equal(Errno.ENOENT, _physical.Do(AdapterOpcode.QueryFunction, Id + 1).Status);
        Assert.Equal(Errno.ENOENT, _physical.Do(AdapterOpcode.SuspendFunction, FunctionIdentity.Physical).Status);
        _function.Functions.Declare(Id + 1, new FunctionSettings(0x0A00000000EF, 3));
        Assert.Equal((0x0A00000000EFUL, 3UL), Answer(_physical.Do(AdapterOpcode.QueryFunction, Id + 1)));
        Assert.Equal(Errno.ENODEV, _physical.Do(AdapterOpcode.SuspendFunction, Id + 1).Status);
    }

    private static (ulong First, ulong Second) Answer(AdapterEvent answer) => (answer.First, answer.Second);

    private ulong Read(ulong offset)
    {
        Span<byte> bytes = stackalloc byte[8];
        _piece.ReadBar(FunctionRegisterPlace.RegisterBar, Place + offset, bytes);
        return BinaryPrimitives.ReadUInt64LittleEndian(bytes);
    }

    private void Write(int bar, ulong offset, ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        _piece.WriteBar(bar, Place + offset, bytes);
    }

    private void Enable()
    {
        Write(0, 0x80, Commands);
        Write(0, 0x88, AdapterDriver.CommandLog);
        Write(0, 0xC0, Events);
        Write(0, 0xC8, AdapterDriver.EventLog);
        Write(0, 0x40, AdapterControl.Enable);
        Assert.True(SpinWait.SpinUntil(() => (Read(0x48) & AdapterStatus.Enabled) != 0, TimeSpan.FromSeconds(10)));
    }

    private Errno Do(AdapterOpcode opcode, params ReadOnlySpan<ulong> arguments)
    {
        var command = new byte[AdapterCommand.Size];
        BinaryPrimitives.WriteUInt16LittleEndian(command, (ushort)opcode);
        for (var i = 0; i < arguments.Length; i++)
            BinaryPrimitives.WriteUInt64LittleEndian(command.AsSpan(16 + (8 * i)), arguments[i]);
        _physical.WriteMemory(Commands + (_producer * AdapterCommand.Size), command);
        var at = Events + (_producer * FunctionEvents.EventSize);
        _producer++;
        Write(2, 0, _producer);
        Assert.True(SpinWait.SpinUntil(() => (_physical.Word(at + 28) & 1) == 1, TimeSpan.FromSeconds(10)), "no event comes");
        Write(2, 8, _producer);
        return (Errno)(_physical.Word(at) >> 16);
    }
}
