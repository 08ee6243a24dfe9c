namespace Virtbus.Core;

/// <summary>One held transition of an activity; frames chain from the innermost to the outermost.</summary>
internal sealed class TransitionFrame(Device device, TransitionFrame? outer)
{
    public Device Device { get; } = device;

    public TransitionFrame? Outer { get; } = outer;

    public bool Contains(TransitionFrame frame)
    {
        for (var f = this; f is not null; f = f.Outer)
        {
            if (f == frame)
                return true;
        }
        return false;
    }
}
