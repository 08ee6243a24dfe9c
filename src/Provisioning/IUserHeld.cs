namespace Virtbus.Provisioning;

/// <summary>A device that somebody outside the fabric can have open. What a function's device or one below it says makes the function in use.</summary>
public interface IUserHeld
{
    /// <summary>Whether somebody has it open at this moment. Any thread.</summary>
    bool IsHeld { get; }
}
