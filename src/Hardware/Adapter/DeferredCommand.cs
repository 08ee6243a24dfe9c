using System.Text;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// A command of the physical function that changes another one, or needs that to stand still. The lane of that one does it, since it may
/// have to wait for its user; the physical function goes on meanwhile, moves what lies in its own memory, and answers.
/// </summary>
internal sealed class DeferredCommand
{
    private readonly FunctionUnit _physical;
    private readonly FunctionUnit _function;
    private readonly AdapterOpcode _opcode;
    private readonly ulong _first;
    private readonly ulong _second;
    // The state of the function: what is to be loaded, or what was saved.
    private byte[] _state = [];
    // Why it was not loaded, and where that goes.
    private string _reason = "";
    private readonly ulong _reasonAt;
    private readonly ulong _reasonRoom;
    private Errno _status = Errno.EIO;

    private DeferredCommand(in AdapterCommand command, FunctionUnit physical, FunctionUnit function)
    {
        _physical = physical;
        _function = function;
        _opcode = command.Opcode;
        _first = command[0];
        _second = command[1];
        _reasonAt = command[2];
        _reasonRoom = command[3];
        Tag = command.Tag;
    }

    /// <summary>The command's tag.</summary>
    internal uint Tag { get; }

    /// <summary>Of which enabling of the physical function it is.</summary>
    internal uint Epoch { get; private set; }

    /// <summary>Makes the command; on the lane of the physical function, under its gate.</summary>
    internal static Errno TryMake(in AdapterCommand command, DmaPort dma, FunctionUnit physical, FunctionUnit function, out DeferredCommand? made)
    {
        made = null;
        var wanted = new DeferredCommand(command, physical, function);
        if (command.Opcode == AdapterOpcode.SuspendFunction && command[0] > 1)
            return Errno.EINVAL;
        if (command.Opcode == AdapterOpcode.LoadFunction)
        {
            if (command[1] > FunctionImage.MaxSize)
                return Errno.EINVAL;
            wanted._state = new byte[command[1]];
            if (!dma.TryRead(new Iova(command[0]), wanted._state))
                return Errno.EFAULT;
        }
        made = wanted;
        return Errno.None;
    }

    /// <summary>Hands the command to the function.</summary>
    internal void Begin(uint epoch)
    {
        Epoch = epoch;
        _function.Ask(this);
    }

    /// <summary>Does it; on the lane of that function, under its gate.</summary>
    internal void Execute()
    {
        try
        {
            _status = _function.IsGone ? Errno.ENODEV : Do();
        }
        finally
        {
            _physical.Done(this);
        }
    }

    /// <summary>Ends the command; on the lane of the physical function, under its gate.</summary>
    internal Errno Finish(DmaPort dma, out ulong written)
    {
        written = 0;
        if (_opcode == AdapterOpcode.LoadFunction && _status != Errno.None)
        {
            var text = Encoding.ASCII.GetBytes(_reason).AsSpan(0, (int)Math.Min((ulong)_reason.Length, _reasonRoom));
            if (!text.IsEmpty && dma.TryWrite(new Iova(_reasonAt), text))
                written = (ulong)text.Length;
            return _status;
        }
        if (_opcode != AdapterOpcode.SaveFunction || _status != Errno.None)
            return _status;
        if (!dma.TryWrite(new Iova(_first), _state))
            return Errno.EFAULT;
        written = (ulong)_state.Length;
        return Errno.None;
    }

    private Errno Do()
    {
        switch (_opcode)
        {
            case AdapterOpcode.SuspendFunction:
                if (_first == 0)
                    return _function.TryPause(out var fault) ? Errno.None : fault.Errno;
                _function.SetSuspend(SuspendLevel.NoPeerAccess);
                return Errno.None;
            case AdapterOpcode.ResumeFunction:
                _function.Resume();
                return Errno.None;
            case AdapterOpcode.SaveFunction:
                return Save();
            default:
                return Load();
        }
    }

    private Errno Save()
    {
        var writer = new StateWriter();
        if (!_function.TrySave(writer, out var fault))
            return fault.Errno;
        if ((ulong)writer.Size > _second)
            return Errno.ENOSPC;
        _state = writer.ToArray();
        return Errno.None;
    }

    private Errno Load()
    {
        if (FunctionImage.TryOpen(_state, out var reader, out var fault) && _function.TryRestore(reader, out fault))
            return Errno.None;
        _reason = fault.Message;
        return fault.Errno;
    }
}
